"""Turn a record around: which part of which tensor in the file goes into which part of the result.

Part of `_lazy`. The result's memory is a contiguous tensor on the meta device. Going up from the last operation, each
one that only moves elements says which view of that memory its argument is to be put into, until the argument is a view
of a tensor in the file. An operation that computes has no such answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from ..torch._assembly import Assembly, Piece
from ..torch._layout import Part, suits
from ._tensor import LazyTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._format import TensorInfo

    View = tuple[LazyTensor, torch.Tensor]  # what goes where

__all__ = ["assemble"]

_aten = torch.ops.aten


def assemble(tensor: LazyTensor) -> TensorInfo | Assembly | None:
    """Return where the bytes of a contiguous tensor come from; None where it has to be computed, or is not contiguous.

    Returns:
        The tensor in the file that it equals byte for byte; or parts of several, in the order in which they lie in it.
    """
    place = torch.empty(tensor.form.shape, dtype=tensor.form.dtype, device="meta")
    if tensor.form.stride() != place.stride() and tensor.numel():
        return None
    pieces: list[Piece] = []
    ahead: list[View] = [(tensor, place)]
    while ahead:
        source, view = ahead.pop()
        if source.written or source.form.dtype != place.dtype:
            return None
        if source.info is not None:
            piece = _piece(source, source.info, view)
            if piece is None:
                return None
            pieces.append(piece)
            continue
        up = None if source.step is None else MOVES.get(cast("Any", source.step.func))
        try:
            above = None if up is None else list(up(source, view))
        except RuntimeError:  # the memory cannot be viewed like this
            above = None
        if above is None:
            return None
        ahead += reversed(above)
    first = pieces[0].info
    if len(pieces) == 1 and pieces[0].whole and tuple(first.shape) == tuple(tensor.shape):
        return first
    return Assembly(first.name, first.dtype, tuple(tensor.shape), place.element_size(), tuple(pieces))


def _piece(source: LazyTensor, info: TensorInfo, view: torch.Tensor) -> Piece | None:
    form, size = source.form, view.element_size()
    if info.dtype == "F4" or 0 in form.stride() and form.numel() > 1:
        return None
    part = Part(
        form.storage_offset() * size, tuple(form.shape), tuple([step * size for step in form.stride()]), size
    )
    stride = tuple([step * size for step in view.stride()])
    return Piece(info, part, view.storage_offset() * size, stride) if suits(part, stride) else None


def _argument(source: LazyTensor, number: int = 0) -> Any:  # noqa: ANN401 - whatever the operation was given
    assert source.step is not None
    return source.step.args[number]


def _option(source: LazyTensor, number: int, default: int) -> int:
    assert source.step is not None
    args = source.step.args
    return cast("int", args[number]) if len(args) > number else default


def _same(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    yield _argument(source), view


def _reshaped(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    above = _argument(source)
    yield above, view.view(above.form.shape)


def _transposed(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    yield _argument(source), view.transpose(_argument(source, 1), _argument(source, 2))


def _turned(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    yield _argument(source), view.t()


def _permuted(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    order = [axis % view.dim() for axis in _argument(source, 1)]
    yield _argument(source), view.permute([order.index(axis) for axis in range(view.dim())])


def _joined(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    dimension, at = _option(source, 1, 0), 0
    for above in _argument(source):
        if not isinstance(above, LazyTensor):
            raise RuntimeError("not of the file")
        extent = above.form.shape[dimension]
        yield above, view.narrow(dimension, at, extent)
        at += extent


def _stacked(source: LazyTensor, view: torch.Tensor) -> Iterator[View]:
    dimension = _option(source, 1, 0)
    for number, above in enumerate(_argument(source)):
        if not isinstance(above, LazyTensor):
            raise RuntimeError("not of the file")
        yield above, view.select(dimension, number)


MOVES: dict[Callable[..., object], Callable[[LazyTensor, torch.Tensor], Iterator[View]]] = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.clone.default: _same,
    _aten._to_copy.default: _same,
    _aten.lift_fresh.default: _same,
    _aten.view.default: _reshaped,
    _aten._unsafe_view.default: _reshaped,
    _aten._reshape_alias.default: _reshaped,
    _aten.unsqueeze.default: _reshaped,
    _aten.squeeze.dim: _reshaped,
    _aten.transpose.int: _transposed,
    _aten.t.default: _turned,
    _aten.permute.default: _permuted,
    _aten.cat.default: _joined,
    _aten.stack.default: _stacked,
}
"""For operations that only move elements: which view of the result's memory each argument goes into."""

