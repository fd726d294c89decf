"""Turn a record around whose elements are cast on the way: which part of which tensor is cast into which view.

Part of `_lazy`. As `_pieces`, with one cast allowed between a tensor in the file and the result: of two, the first
would round by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from ..torch._casting import CastPiece
from ..torch._layout import Part
from ._pieces import MOVES

if TYPE_CHECKING:
    from ._tensor import LazyTensor

    View = tuple[LazyTensor, torch.Tensor, bool]  # what goes where, and whether it was cast since

__all__ = ["cast_pieces"]

_CAST = torch.ops.aten._to_copy.default


def cast_pieces(tensor: LazyTensor) -> list[CastPiece] | None:
    """Return what a contiguous tensor is cast from; None where it has to be computed, or is not contiguous."""
    place = torch.empty(tensor.form.shape, dtype=tensor.form.dtype, device="meta")
    if tensor.form.stride() != place.stride() and tensor.numel():
        return None
    found: list[CastPiece] = []
    ahead: list[View] = [(tensor, place, False)]
    while ahead:
        source, view, was_cast = ahead.pop()
        if source.written:
            return None
        if source.info is not None:
            if source.info.dtype == "F4" or 0 in source.form.stride():
                return None
            size = source.form.element_size()
            part = Part(
                int(source.form.storage_offset()) * size,
                tuple(source.form.shape),
                tuple([step * size for step in source.form.stride()]),
                size,
            )
            found.append(
                CastPiece(source.info, part, tuple(view.shape), view.stride(), int(view.storage_offset()))
            )
            continue
        func = None if source.step is None else cast("Any", source.step.func)
        move = MOVES.get(func)
        try:
            above = None if move is None else list(move(source, view))
        except RuntimeError:  # the memory cannot be viewed like this
            above = None
        if above is None:
            return None
        for one, its_view in reversed(above):
            casts = func is _CAST and one.form.dtype != source.form.dtype
            if casts and was_cast:
                return None
            ahead.append((one, its_view, was_cast or casts))
    return found
