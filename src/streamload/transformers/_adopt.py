"""Make the lazy tensors of a module real: those that need no computing arrive by themselves, the others are computed.

Part of `transformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from .._lazy import LazyTensor, assemble
from .._lazy._casts import cast_pieces
from ..torch._adopt import check_read, stream_seats
from ..torch._seats import gather
from ._stream import CastWeights, PretrainedStream

if TYPE_CHECKING:
    from .._checkpoint import Checkpoint
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ..torch._assembly import Assembly
    from ..torch._casting import CastPiece
    from ..torch._seats import Seat

__all__ = ["adopt"]


def adopt(module: torch.nn.Module, checkpoint: Checkpoint, options: StreamOptions | None) -> PretrainedStream:
    """Put real tensors in the places of lazy ones; those that are computed are there when this returns.

    Args:
        module: Its lazy tensors are of the checkpoint, on one device, or all of them are computed.
        checkpoint: Open; may be closed afterwards.
        options: How to read and stage.

    Returns:
        The stream of those that arrive by themselves.

    Raises:
        As `stream_module`; and as `LazyTensor.value`, after which the module keeps lazy tensors.
    """
    seats = [found for found in gather(module) if isinstance(found.tensor, LazyTensor)]
    devices = {found.tensor.device for found in seats}
    taken: list[tuple[Seat, TensorInfo | Assembly]] = []
    casts: list[tuple[Seat, list[CastPiece]]] = []
    computed: list[Seat] = []
    with torch.no_grad():
        for found in seats:
            lazy = cast("LazyTensor", found.tensor)
            if (source := assemble(lazy) if len(devices) == 1 else None) is not None:
                found.tensor = lazy.dressed(torch.empty(lazy.shape, dtype=lazy.dtype, device="meta"))
                taken.append((found, source))
            elif (pieces := cast_pieces(lazy)) is not None:
                casts.append((found, pieces))
            else:
                computed.append(found)
        streaming = stream_seats(taken, checkpoint, devices.pop(), options=options) if taken else None
        casting = None
        try:
            casting = CastWeights(_with_memory(casts), checkpoint.detached(), options) if casts else None
            _compute(computed, checkpoint, options)
        except BaseException:
            PretrainedStream(streaming, casting).close()
            raise
    return PretrainedStream(streaming, casting)


def _with_memory(casts: list[tuple[Seat, list[CastPiece]]]) -> list[tuple[Seat, torch.Tensor, list[CastPiece]]]:
    """Put tensors over new memory, which is to be cast into, in their seats."""
    made = []
    for found, pieces in casts:
        lazy = cast("LazyTensor", found.tensor)
        tensor = lazy.dressed(torch.empty(lazy.shape, dtype=lazy.dtype, device=lazy.device))
        found.put(tensor)
        made.append((found, tensor, pieces))
    return made


def _compute(computed: list[Seat], checkpoint: Checkpoint, options: StreamOptions | None) -> None:
    """Put tensors that have to be computed into their seats."""
    lazies = [cast("LazyTensor", found.tensor) for found in computed]
    made = [lazy.dressed(lazy.value()) for lazy in lazies]
    if lazies:
        check_read([info for lazy in lazies for info in lazy.node.files()], checkpoint, lazies[0].device, options)
    for found, tensor in zip(computed, made, strict=True):
        found.put(tensor)
