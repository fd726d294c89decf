"""Work out which bytes of a tensor an index asks for, so that only those are read.

Floor 4, part of `torch`; pure. The index is torch's own: torch applies it to a stand-in that has a shape and no
bytes, which settles what is valid, every error and the result's shape. Read next: `_safe_open`.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias

import torch

from ._memory import reinterpret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Index: TypeAlias = (
        SupportsIndex | slice | EllipsisType | torch.Tensor | Sequence["Index"] | tuple["Index", ...] | None
    )

MOST_RANGES = 4096
"""Ranges a slice is read in before near ones are joined: past this, system calls cost more than the bytes between."""

NEAR_BYTES = 4096
"""Ranges this near are joined then: the kernel reads whole pages anyway."""

_CPU = torch.device("cpu")  # said everywhere: torch.set_default_device must not move what is counted here


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a tensor to read, and how the result is made of it. All counts are in elements.

    Attributes:
        ranges: Half-open ranges to read, ascending; their elements lie one after the other in the buffer.
        count: Elements in all ranges together.
        shape: Shape of the result.
        stride: Strides of the result in the buffer; None where `gather` says which elements.
        gather: Position in the buffer of each element of the result, int64, of the result's shape.
    """

    ranges: list[tuple[int, int]]
    count: int
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    gather: torch.Tensor | None = None

    @property
    def numel(self) -> int:
        """Elements of the result."""
        return math.prod(self.shape)

    def apply(self, buffer: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Make the result of the bytes read: contiguous, with a storage of its own.

        Args:
            buffer: uint8, the ranges' bytes one after the other, in memory of its own.
            dtype: Element type of the result.
        """
        if self.gather is not None:
            rows = buffer.view(-1, dtype.itemsize)[self.gather.to(buffer.device).flatten()]
            return reinterpret(rows, dtype, self.shape)
        result = reinterpret(buffer, dtype, (self.count,))
        if self.count == self.numel:
            return result.reshape(self.shape).detach()
        return result.as_strided(self.shape, self.stride or ()).clone(memory_format=torch.contiguous_format)


def select(shape: Sequence[int], itemsize: int, index: Index) -> Selection:
    """Work out what an index asks of a contiguous tensor.

    Args:
        shape: The tensor's shape.
        itemsize: Bytes of one element.
        index: Whatever torch accepts in `tensor[index]`.

    Raises:
        IndexError, TypeError, ValueError: As torch does for such an index.
    """
    basic = _as_basic(index)
    if basic is None:
        return _select_elements(shape, itemsize, index)
    whole = torch.empty(shape, dtype=torch.uint8, device="meta")
    # Not always as a tuple: torch tells other errors then, where a scalar is indexed.
    return _select_view(whole[basic] if isinstance(index, tuple) else whole[basic[0]], itemsize)


def _as_basic(index: Index) -> tuple[int | slice | EllipsisType | None, ...] | None:
    """Return an index that only moves along dimensions, so that torch answers with a view; None for any other."""
    parts: list[int | slice | EllipsisType | None] = []
    for part in index if isinstance(index, tuple) else (index,):
        if part is None or isinstance(part, (slice, EllipsisType)):
            parts.append(part)
        elif isinstance(part, (bool, torch.Tensor)):
            return None
        else:
            try:
                parts.append(operator.index(part))  # type: ignore[arg-type]  # whether it is one is the question
            except TypeError:
                return None
    return tuple(parts)


def _select_view(view: torch.Tensor, itemsize: int) -> Selection:
    shape = tuple(view.shape)
    if view.numel() == 0:
        return Selection([], 0, shape)
    # Inner dimensions that follow each other without a gap are one run; extents of 1 have no stride to speak of.
    dims = [
        (dim, size, stride) for dim, (size, stride) in enumerate(zip(shape, view.stride(), strict=True)) if size > 1
    ]
    run = 1
    steps = [0] * len(shape)
    while dims:
        dim, size, stride = dims[-1]
        gap = (stride - run) * itemsize
        joins = math.prod(size for _, size, _ in dims) > MOST_RANGES and gap < NEAR_BYTES
        if gap and not joins:
            break
        steps[dim] = stride
        run += (size - 1) * stride
        dims.pop()
    count = run
    for dim, size, _ in reversed(dims):
        steps[dim] = count
        count *= size
    first = int(view.storage_offset())
    outer = itertools.product(*(range(0, size * stride, stride) for _, size, stride in dims))
    ranges = [(first + sum(place), first + sum(place) + run) for place in outer]
    return Selection(ranges, count, shape, tuple(steps))


def _select_elements(shape: Sequence[int], itemsize: int, index: Index) -> Selection:
    """Number the elements and let torch pick the numbers; no more of them exist than the result has elements."""
    strides = torch.empty(shape, dtype=torch.uint8, device="meta").stride()
    chosen: torch.Tensor | None = None
    for dim, stride in enumerate(strides):
        along = (
            torch.arange(shape[dim], device=_CPU)
            .mul_(stride)
            .view([-1 if other == dim else 1 for other in range(len(shape))])
        )
        part = along.expand(*shape)[index]  # type: ignore[index]  # torch's stub knows fewer index types than torch
        chosen = part if chosen is None else chosen + part
    if chosen is None:  # a scalar
        chosen = torch.zeros((), dtype=torch.int64, device=_CPU)[index]  # type: ignore[index]  # as above
    wanted, gather = torch.unique(chosen, return_inverse=True)
    near = NEAR_BYTES // itemsize if wanted.numel() > MOST_RANGES else 0
    ranges = list(_runs(wanted, near))
    if near:
        starts = torch.tensor([start for start, _ in ranges], device=_CPU)
        lengths = torch.tensor([end - start for start, end in ranges], device=_CPU)
        before = lengths.cumsum(0) - lengths
        which = torch.searchsorted(starts, wanted, right=True) - 1
        gather = (before[which] + wanted - starts[which])[gather]
    return Selection(ranges, sum(end - start for start, end in ranges), tuple(chosen.shape), None, gather)


def _runs(wanted: torch.Tensor, near: int) -> Iterator[tuple[int, int]]:
    """Yield ranges over ascending element numbers, joining those at most `near` elements apart."""
    if wanted.numel() == 0:
        return
    breaks = torch.nonzero(wanted.diff() > near + 1).flatten()
    firsts = wanted[torch.cat((torch.zeros(1, dtype=torch.int64, device=_CPU), breaks + 1))].tolist()
    lasts = wanted[torch.cat((breaks, torch.tensor([wanted.numel() - 1], device=_CPU)))].tolist()
    for first, last in zip(firsts, lasts, strict=True):
        yield first, last + 1
