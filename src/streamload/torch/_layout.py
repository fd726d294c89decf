"""Take a part of a tensor in a file, and a strided tensor to put it into, apart into rows of bytes.

Floor 4, part of `torch`; pure. Everything is counted in bytes. A part and a view have the same shape and each its own
strides; what both agree on is one piece, and what is left of the dimensions is rows, then pieces. Read next: `_fill`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._plan import Block

SHORTEST_ROW = 64
"""Rows below this, a cache line, are not written one by one where packed memory could take longer ones."""

Piece = tuple[int, int, int, int, int, int]  # offset in the file, at the target, bytes of a row, rows, pitch in each

_Level = tuple[int, int, int]  # extent, bytes from one to the next in the file, at the target


@dataclass(frozen=True, slots=True)
class Part:
    """What an index keeps of a contiguous tensor.

    Attributes:
        offset: Bytes from the tensor's first to the part's first.
        shape: Extents that are left.
        stride: Bytes from one to the next in each dimension.
        itemsize: Bytes of one element.
    """

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes of the part's elements."""
        return math.prod(self.shape) * self.itemsize


def take_part(shape: Sequence[int], itemsize: int, index: object) -> Part:
    """Return the part of a contiguous tensor that an index keeps.

    Args:
        shape: The tensor's shape.
        itemsize: Bytes of one element.
        index: Ints and slices of step 1, at most one for each dimension, counted as Python counts.

    Raises:
        TypeError: The index is something else.
        IndexError: There are too many, or an int is out of range.
        ValueError: A slice has another step.
    """
    if not isinstance(index, tuple) or not all(type(part) in (int, slice) for part in index):
        raise TypeError(f"expected a tuple of ints and slices, got {index!r:.80}")
    if len(index) > len(shape):
        raise IndexError(f"{len(index)} indices for {len(shape)} dimensions")
    offset, kept, strides = 0, [], []
    for dimension, (extent, stride) in enumerate(zip(shape, packed_stride(shape, itemsize), strict=True)):
        part = index[dimension] if dimension < len(index) else slice(None)
        if isinstance(part, int):
            if not -extent <= part < extent:
                raise IndexError(f"index {part} is out of range for dimension {dimension} of {extent}")
            offset += part % extent * stride
            continue
        start, stop, step = part.indices(extent)
        if step != 1:
            raise ValueError(f"slices must have step 1, got {part}")
        offset += start * stride
        kept.append(max(0, stop - start))
        strides.append(stride)
    return Part(offset, tuple(kept), tuple(strides), itemsize)


def narrow(part: Part, index: Sequence[slice]) -> Part:
    """Return a part of a part; the slices are of its first dimensions, with a start and a stop inside."""
    offset = part.offset + sum([at.start * stride for at, stride in zip(index, part.stride, strict=False)])
    shape = (*[at.stop - at.start for at in index], *part.shape[len(index) :])
    return Part(offset, shape, part.stride, part.itemsize)


def packed_stride(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Return the strides, in bytes, of elements that lie one after the other in the order of their indices."""
    return tuple([math.prod(shape[dimension + 1 :]) * itemsize for dimension in range(len(shape))])


def row_bytes(part: Part, stride: Sequence[int]) -> int:
    """Return the bytes of each row that `take_apart` makes of a part."""
    return _fold(part, stride)[0]


def suits(part: Part, stride: Sequence[int]) -> bool:
    """Whether rows put a part into a view about as well as into packed memory of the same shape."""
    row, levels = _fold(part, stride)
    if row < SHORTEST_ROW:
        packed_row, packed_levels = _fold(part, packed_stride(part.shape, part.itemsize))
        return row >= packed_row and len(levels) <= len(packed_levels)
    return True


def take_apart(part: Part, stride: Sequence[int]) -> list[Piece]:
    """Return the pieces that put a part of a file's tensor into a view of its shape.

    Args:
        part: What is wanted of the tensor; pieces count from the tensor's first byte.
        stride: The view's strides in bytes; pieces count from its first element. No two elements share a byte.
    """
    if 0 in part.shape:
        return []
    row, levels = _fold(part, stride)
    rows, file_pitch, pitch = levels.pop() if levels else (1, 0, 0)
    offsets = itertools.product(*[[(at * by, at * to) for at in range(extent)] for extent, by, to in levels])
    return [
        (part.offset + sum([by for by, _ in at]), sum([to for _, to in at]), row, rows, file_pitch, pitch)
        for at in offsets
    ]


def blocks_of(address: int, shape: Sequence[int], stride: Sequence[int], itemsize: int) -> list[Block] | None:
    """Return the memory that a strided tensor's elements are in; None if it is not sure that none share a byte."""
    if 0 in shape:
        return []
    levels = sorted([(step, extent) for extent, step in zip(shape, stride, strict=True) if extent > 1], reverse=True)
    reach = itemsize
    for step, extent in reversed(levels):
        if step < reach:
            return None
        reach += (extent - 1) * step
    sizes, steps = tuple([extent for _, extent in levels]), tuple([step for step, _ in levels])
    # Against itself: what lies together in memory is a piece.
    pieces = take_apart(Part(0, sizes, steps, itemsize), steps)
    return [(address + at, row, rows, pitch) for at, _, row, rows, _, pitch in pieces]


def split(shape: Sequence[int], itemsize: int, most: int) -> Iterator[tuple[slice, ...]]:
    """Yield indices that cut a shape into parts of at most `most` bytes, along its first dimensions.

    One element is never cut.
    """
    nbytes = math.prod(shape) * itemsize
    if nbytes <= most or not shape:
        yield ()
        return
    below = nbytes // shape[0]
    if below <= most:
        step = most // below
        for start in range(0, shape[0], step):
            yield (slice(start, min(start + step, shape[0])),)
        return
    for start in range(shape[0]):
        for rest in split(shape[1:], itemsize, most):
            yield (slice(start, start + 1), *rest)


def _fold(part: Part, stride: Sequence[int]) -> tuple[int, list[_Level]]:
    """Return the bytes of a row, and the dimensions outside it with all joined that can be, outermost first."""
    levels: list[_Level] = []
    for extent, by, to in zip(part.shape, part.stride, stride, strict=True):
        if extent == 1:
            continue
        if levels and levels[-1][1:] == (extent * by, extent * to):
            levels[-1] = (levels[-1][0] * extent, by, to)
        else:
            levels.append((extent, by, to))
    if levels and levels[-1][1:] == (part.itemsize, part.itemsize):
        return levels.pop()[0] * part.itemsize, levels
    return part.itemsize, levels
