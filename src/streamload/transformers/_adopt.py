"""Make the lazy tensors of a module real: those that need no computing arrive by themselves, the others are computed.

Part of `transformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from .._lazy import LazyTensor, assemble
from .._lazy._casts import cast_pieces
from ..torch._adopt import stream_seats
from ..torch._seats import Seat, tensors_of, walk
from ._stream import CastWeights, PretrainedStream

if TYPE_CHECKING:
    from .._checkpoint import Checkpoint
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ..torch._assembly import Assembly
    from ..torch._casting import CastPiece

__all__ = ["adopt"]

_OWN = ("form", "info", "step", "written", "_source", "_value", "_is_param")


def adopt(module: torch.nn.Module, checkpoint: Checkpoint, options: StreamOptions | None) -> PretrainedStream:
    """Put real tensors in the places of lazy ones; returns at once for all that need no computing.

    Args:
        module: Some of whose tensors are lazy, of this checkpoint.
        checkpoint: Open; may be closed as soon as this returns.
        options: How to read and stage.
    """
    seats = _find_seats(module)
    devices = {found.tensor.device for found in seats}
    taken: list[tuple[Seat, TensorInfo | Assembly]] = []
    casts: list[tuple[Seat, torch.Tensor, list[CastPiece]]] = []
    with torch.no_grad():
        for found in seats:
            lazy = cast("LazyTensor", found.tensor)
            empty = 0 in lazy.shape
            source = assemble(lazy) if len(devices) == 1 and not empty else None
            pieces = cast_pieces(lazy) if source is None and not empty else None
            if source is not None:
                found.tensor = _dressed(lazy, torch.empty(lazy.shape, dtype=lazy.dtype, device="meta"))
                taken.append((found, source))
            elif pieces is not None:
                made = _dressed(lazy, torch.empty(lazy.shape, dtype=lazy.dtype, device=lazy.device))
                found.put(made)
                casts.append((found, made, pieces))
            else:
                found.put(_dressed(lazy, lazy.value().to(lazy.device)))
    stream = stream_seats(taken, checkpoint, devices.pop(), options=options) if taken else None
    cast_weights = CastWeights(casts, checkpoint.detached(), options) if casts else None
    return PretrainedStream(stream, cast_weights)


def _find_seats(module: torch.nn.Module) -> list[Seat]:
    seats: dict[int, Seat] = {}
    for prefix, owner in walk(module):
        for attribute, tensor in tensors_of(owner):
            if isinstance(tensor, LazyTensor):
                found = seats.setdefault(id(tensor), Seat(tensor))
                if (owner, attribute) not in found.places:
                    found.places.append((owner, attribute))
                found.names.append(prefix + attribute)
    return list(seats.values())


def _dressed(lazy: LazyTensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as what a lazy one is: a parameter or not, with what was set on it."""
    made = torch.nn.Parameter(tensor, lazy.requires_grad) if isinstance(lazy, torch.nn.Parameter) else tensor.detach()
    made.__dict__.update({name: value for name, value in lazy.__dict__.items() if name not in _OWN})
    return made
