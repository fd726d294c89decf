"""Make the lazy tensors of a module real: those that need no computing arrive by themselves, the others are computed.

Part of `transformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._lazy import LazyTensor, assemble
from ..torch._adopt import stream_seats
from ..torch._seats import Seat, tensors_of, walk

if TYPE_CHECKING:
    from .._checkpoint import Checkpoint
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ..torch import ModuleStream
    from ..torch._assembly import Assembly

__all__ = ["adopt"]

_OWN = ("form", "info", "step", "written", "_source", "_value", "_is_param")


def adopt(module: torch.nn.Module, checkpoint: Checkpoint, options: StreamOptions | None) -> ModuleStream | None:
    """Put real tensors in the places of lazy ones; returns at once for those that are streamed.

    Returns:
        The stream; None where nothing is streamed.
    """
    seats: dict[int, Seat] = {}
    for prefix, owner in walk(module):
        for attribute, tensor in tensors_of(owner):
            if isinstance(tensor, LazyTensor):
                found = seats.setdefault(id(tensor), Seat(tensor))
                if (owner, attribute) not in found.places:
                    found.places.append((owner, attribute))
                found.names.append(prefix + attribute)
    taken: list[tuple[Seat, TensorInfo | Assembly]] = []
    devices = {found.tensor.device for found in seats.values()}
    with torch.no_grad():
        for found in seats.values():
            lazy = found.tensor
            source = assemble(lazy) if len(devices) == 1 else None
            if source is None or 0 in lazy.shape:
                found.put(_dressed(lazy, lazy.value().to(lazy.device)))
                continue
            found.tensor = _dressed(lazy, torch.empty(lazy.shape, dtype=lazy.dtype, device="meta"))
            taken.append((found, source))
    if not taken:
        return None
    return stream_seats(taken, checkpoint, devices.pop(), options=options)


def _dressed(lazy: LazyTensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as what a lazy one is: a parameter or not, with what was set on it."""
    made = torch.nn.Parameter(tensor, lazy.requires_grad) if isinstance(lazy, torch.nn.Parameter) else tensor.detach()
    made.__dict__.update({name: value for name, value in lazy.__dict__.items() if name not in _OWN})
    return made
