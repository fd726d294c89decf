"""Turn a record around: which part of which tensor in the file goes into which part of the result.

Part of `_lazy`. The result's memory is a contiguous tensor on the meta device. Going up from the last operation, each
one that only moves elements says which view of that memory its argument is to be put into, until the argument is a view
of a tensor in the file. An operation that computes has no such answer.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import torch

from ..torch._assembly import Assembly, Piece
from ..torch._dtypes import safetensors_dtype, torch_dtype, torch_shape
from ..torch._layout import SHORTEST_ROW, Part, row_bytes, suits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._format import TensorInfo
    from ._node import Node, Step
    from ._tensor import LazyTensor

    View = tuple[Node, torch.Tensor]  # what goes where
    Lie = tuple[torch.Size, tuple[int, ...], int, tuple[int, ...], int]  # shape, strides, offset; strides; item size
    Way = tuple[Part, tuple[int, ...]]

__all__ = ["MOVES", "assemble", "overlaps"]

_aten = torch.ops.aten

MOST_SHORT_ROWS = 4096
"""Rows of less than a cache line that a part is put in place in; past that, computing it in host memory is quicker."""


def assemble(tensor: LazyTensor) -> TensorInfo | Assembly | None:
    """Return where the bytes of a contiguous tensor come from; None where it has to be computed, or is not contiguous.

    Returns:
        The tensor in the file that it equals byte for byte; or parts of several, which fill it.
    """
    form = tensor.form
    dtype = safetensors_dtype(form.dtype)
    if tensor.written or not form.is_contiguous() or not form.numel() or dtype is None:
        return None
    place = torch.empty(form.shape, dtype=form.dtype, device="meta")
    pieces: list[Piece] = []
    ways: dict[Lie, Way | None] = {}  # experts of a layer go the same way, each to its place
    ahead: list[View] = [(tensor.node, place)]
    while ahead:
        node, view = ahead.pop()
        if not view.numel():
            continue
        if node.info is not None:
            piece = _piece(node, node.info, view, ways)
            if piece is None:
                return None
            pieces.append(piece)
            continue
        up = None if node.step is None else MOVES.get(node.step.func)
        try:
            above = [] if up is None else list(up(node, view))
        except RuntimeError:  # the memory cannot be viewed like this
            above = []
        if not above or any(each.form.dtype != to.dtype for each, to in above):
            return None
        ahead += reversed(above)
    return _joined_up(form, dtype, pieces)


def _joined_up(form: torch.Tensor, dtype: str, pieces: Sequence[Piece]) -> TensorInfo | Assembly:
    first = pieces[0].info
    if pieces[0].whole and torch_dtype(first) == form.dtype and torch_shape(first) == tuple(form.shape):
        return first
    shape = tuple(form.shape)
    if dtype == "F4":  # of which a header counts the halves of bytes
        shape = (*shape[:-1], 2 * shape[-1])
    return Assembly(first.name, dtype, shape, form.numel() * form.element_size(), tuple(pieces))


def _piece(node: Node, info: TensorInfo, view: torch.Tensor, ways: dict[Lie, Way | None]) -> Piece | None:
    form, size = node.form, view.element_size()
    lie = (form.shape, form.stride(), int(form.storage_offset()), view.stride(), size)
    if lie not in ways:
        ways[lie] = None if overlaps(form) else _way(lie)
    way = ways[lie]
    return None if way is None else Piece(info, way[0], int(view.storage_offset()) * size, way[1])


def _way(lie: Lie) -> Way | None:
    """Return which part goes into which strides, in bytes; None if rows are no good way to put it there."""
    shape, steps, offset, to, size = lie
    part = Part(offset * size, tuple(shape), tuple([step * size for step in steps]), size)
    stride = tuple([step * size for step in to])
    return (part, stride) if suits(part, stride) and not _is_crumbs(part, stride) else None


def overlaps(form: torch.Tensor) -> bool:
    """Whether elements may share bytes: an expanded tensor, or one of windows."""
    reach = 1
    for step, extent in sorted(zip(form.stride(), form.shape, strict=True)):
        if extent > 1:
            if step < reach:
                return True
            reach += (extent - 1) * step
    return False


def _is_crumbs(part: Part, stride: Sequence[int]) -> bool:
    """Whether a part would be put in place in many short rows."""
    row = row_bytes(part, stride)
    return row < SHORTEST_ROW and part.nbytes > MOST_SHORT_ROWS * row


def _argument(node: Node, number: int = 0) -> object:
    return cast("Step", node.step).args[number]


def _above(node: Node) -> Node:
    return cast("Node", _argument(node))


def _dimension(node: Node) -> int:
    args = cast("Step", node.step).args
    return cast("int", args[1]) if len(args) > 1 else 0


def _same(node: Node, view: torch.Tensor) -> Iterator[View]:
    yield _above(node), view


def _padded(node: Node, view: torch.Tensor) -> Iterator[View]:
    if _above(node).form.shape == view.shape:  # by nothing, as biases of tied heads are
        yield _above(node), view


def _reinterpreted(node: Node, view: torch.Tensor) -> Iterator[View]:
    yield _above(node), view.view(_above(node).form.dtype)


def _reshaped(node: Node, view: torch.Tensor) -> Iterator[View]:
    yield _above(node), view.view(_above(node).form.shape)


def _transposed(node: Node, view: torch.Tensor) -> Iterator[View]:
    yield _above(node), view.transpose(cast("int", _argument(node, 1)), cast("int", _argument(node, 2)))


def _turned(node: Node, view: torch.Tensor) -> Iterator[View]:
    yield _above(node), view.t()


def _permuted(node: Node, view: torch.Tensor) -> Iterator[View]:
    order = [axis % view.dim() for axis in cast("Sequence[int]", _argument(node, 1))]
    yield _above(node), view.permute([order.index(axis) for axis in range(view.dim())])


def _joined(node: Node, view: torch.Tensor) -> Iterator[View]:
    dimension, at = _dimension(node), 0
    for above in cast("Sequence[Node]", _argument(node)):
        if above.form.dim() != view.dim():
            continue  # torch takes an empty vector for nothing
        extent = above.form.shape[dimension]
        yield above, view.narrow(dimension, at, extent)
        at += extent


def _stacked(node: Node, view: torch.Tensor) -> Iterator[View]:
    yield from zip(cast("Sequence[Node]", _argument(node)), view.unbind(_dimension(node)), strict=True)


MOVES: Mapping[object, Callable[[Node, torch.Tensor], Iterator[View]]] = MappingProxyType(
    {
        _aten.detach.default: _same,
        _aten.alias.default: _same,
        _aten.clone.default: _same,
        _aten._to_copy.default: _same,
        _aten.lift_fresh.default: _same,
        _aten.constant_pad_nd.default: _padded,
        _aten.view.dtype: _reinterpreted,
        _aten.view.default: _reshaped,
        _aten._unsafe_view.default: _reshaped,
        _aten._reshape_alias.default: _reshaped,
        _aten.unsqueeze.default: _reshaped,
        _aten.squeeze.default: _reshaped,
        _aten.squeeze.dim: _reshaped,
        _aten.squeeze.dims: _reshaped,
        _aten.transpose.int: _transposed,
        _aten.t.default: _turned,
        _aten.permute.default: _permuted,
        _aten.cat.default: _joined,
        _aten.stack.default: _stacked,
    }
)
"""For operations that only move elements: which view of the result's memory each argument goes into."""
