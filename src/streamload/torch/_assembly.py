"""A tensor put together from parts of a checkpoint's tensors, each of which goes straight into its place.

Floor 4, part of `torch`. Stands where a `TensorInfo` does, for what has no tensor of its own in the file: fused
projections, stacked experts, transposed and cut weights. Read next: `_submit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._layout import packed_stride

if TYPE_CHECKING:
    from .._format import TensorInfo
    from ._layout import Part


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a checkpoint's tensor, and where it goes.

    Attributes:
        info: The tensor.
        part: Which part of it.
        offset: Bytes from the assembled tensor's first to the first that this part goes to.
        stride: Bytes from one element to the next there, in each dimension of the part.
    """

    info: TensorInfo
    part: Part
    offset: int
    stride: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether it is all of the tensor, its bytes in their order."""
        packed = packed_stride(self.part.shape, self.part.itemsize)
        return self.part.nbytes == self.info.nbytes and _agree(self.part, packed) and _agree(self.part, self.stride)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A contiguous tensor of parts of others, with no gap between.

    Attributes:
        name: Of the first tensor that a part is of.
        dtype: Element type, by its safetensors name.
        shape: Elements per dimension, as a header has it.
        nbytes: Length in bytes.
        pieces: The parts.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    pieces: tuple[Piece, ...]


def _agree(part: Part, stride: tuple[int, ...]) -> bool:
    """Whether a part's elements lie as strides say; an extent of one has no stride to speak of."""
    return all(extent == 1 or by == to for extent, by, to in zip(part.shape, part.stride, stride, strict=True))
