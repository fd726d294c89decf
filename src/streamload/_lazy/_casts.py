"""Turn a record around whose elements are cast on the way: which part of which tensor is cast into which view.

Part of `_lazy`. As `_pieces`, with one cast allowed between a tensor in the file and the result: of two, the first
would round by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..torch._casting import CastPiece
from ..torch._layout import Part
from ._pieces import MOVES, overlaps

if TYPE_CHECKING:
    from ._node import Node
    from ._tensor import LazyTensor

    View = tuple[Node, torch.Tensor, bool]  # what goes where, and whether it was cast since

__all__ = ["cast_pieces"]

_CAST = torch.ops.aten._to_copy.default


def cast_pieces(tensor: LazyTensor) -> list[CastPiece] | None:
    """Return what a contiguous tensor is cast from; None where it has to be computed, or is not contiguous."""
    form = tensor.form
    if tensor.written or not form.is_contiguous() or not form.numel():
        return None
    found: list[CastPiece] = []
    ahead: list[View] = [(tensor.node, torch.empty(form.shape, dtype=form.dtype, device="meta"), False)]
    while ahead:
        node, view, was_cast = ahead.pop()
        if not view.numel():
            continue
        if node.info is not None:
            if node.info.dtype == "F4" or overlaps(node.form):
                return None
            found.append(_piece(node, view))
            continue
        above = _above(node, view)
        if not above:
            return None
        for one, its_view in reversed(above):
            casts = one.form.dtype != node.form.dtype
            if casts and (was_cast or node.step is None or node.step.func is not _CAST):
                return None
            ahead.append((one, its_view, was_cast or casts))
    return found


def _above(node: Node, view: torch.Tensor) -> list[tuple[Node, torch.Tensor]]:
    """Return what goes where one step up, or nothing."""
    move = None if node.step is None else MOVES.get(node.step.func)
    try:
        return [] if move is None else list(move(node, view))
    except RuntimeError:  # the memory cannot be viewed like this
        return []


def _piece(node: Node, view: torch.Tensor) -> CastPiece:
    form, size = node.form, node.form.element_size()
    stride = tuple([step * size for step in form.stride()])
    part = Part(int(form.storage_offset()) * size, tuple(form.shape), stride, size)
    assert node.info is not None
    return CastPiece(node.info, part, tuple(view.shape), view.stride(), int(view.storage_offset()))
