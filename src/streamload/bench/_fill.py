"""Fill tensors that are there already, until `streamload.torch.fill` does: the same signature, through the engine.

Floor 6; needs torch.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from .._checkpoint import Checkpoint
from .._checkpoint import open as open_checkpoint
from .._engine import shared_engine
from .._plan import Copy, make_plan
from ..options import StreamOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import torch

    from .._engine import CopyEngine, LoadStats

__all__ = ["fill"]


def fill(
    source: str | os.PathLike[str] | Checkpoint,
    destinations: Mapping[str, torch.Tensor],
    *,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> LoadStats:
    """Fill contiguous tensors with those of a checkpoint; blocks."""
    with ExitStack() as stack:
        checkpoint = source if isinstance(source, Checkpoint) else stack.enter_context(open_checkpoint(source))
        if engine is None:
            engine = shared_engine(str(next(iter(destinations.values())).device), options or StreamOptions())
        groups = [
            [Copy(t.shard, t.start, t.end, destinations[t.name].data_ptr()) for t in layer.tensors]
            for layer in checkpoint.layers
        ]
        plan = make_plan(groups, chunk_bytes=engine.options.chunk_bytes)
        sources = [shard.source for shard in checkpoint.shards]
        with engine.submit(plan, sources, keep_alive=tuple(destinations.values())) as ticket:
            ticket.wait()
            return ticket.stats()
