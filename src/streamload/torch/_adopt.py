"""Fill a module whose tensors only say where their bytes are to come from.

Floor 4, part of `torch`. The last step of a load that somebody else has planned, with tensors that read nothing: each
gets memory and a gate as in `stream_module`, which this is without the looking up of names. Read next: `_filling`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._delivery import Delivery
from ._filling import start_filling
from ._module_stream import ModuleStream
from ._seats import Seating
from ._submit import choose_engine, compare, known_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ._assembly import Assembly
    from ._seats import Seat


def stream_seats(
    taken: Sequence[tuple[Seat, TensorInfo | Assembly]],
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> ModuleStream:
    """Give seats of one module memory on a device, start to fill it, and return at once.

    Args:
        taken: What goes where. The tensor of each seat is on meta, with the class and attributes of the one to be.
        checkpoint: Open; may be closed as soon as this returns.
        device: Where to.
        options: How to read and stage; not together with `engine`.
        engine: A copy engine of one's own.

    Raises:
        As `stream_module`.
    """
    chosen = choose_engine(device, options, engine)
    delivery = Delivery(checkpoint, device, chosen, shared=engine is None)
    filling = start_filling(delivery, chosen, taken, ())
    return ModuleStream(delivery, filling, Seating([], [], [], [], []), None, hooked=None)


def check_read(
    infos: Sequence[TensorInfo], checkpoint: Checkpoint, device: torch.device, options: StreamOptions | None
) -> None:
    """Compare with the manifest what was read outside a stream, if `StreamOptions.verify` asks for it; blocks.

    Raises:
        ChecksumError: One differs.
        FileNotFoundError, FormatError, PermissionError, ValueError: As `known_sums`.
        SourceError, ChangedError, StreamClosedError: They cannot be read once more.
    """
    if options is None or not options.verify or not infos:
        return
    engine = choose_engine(device, options, None)
    known = known_sums(checkpoint, engine)
    assert known is not None
    compare(engine, checkpoint, infos, known)
