"""streamload: a checkpoint behind a URL, into memory that is there, in the order of its layers.

Part of `bench._source._clients`; needs torch. The checkpoint is opened before the clock starts, as the others' clients
are made; how long that took is reported beside the rest. How many requests are in flight is left to the engine.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from .... import _native
from ...._checkpoint import Checkpoint
from ...._checkpoint import open as open_checkpoint
from ...._engine import CopyEngine, ReadPool
from ...._engine._remote import RemoteClient
from ....options import StreamOptions
from ....torch._dtypes import torch_dtype, torch_shape
from ..._traced import start_load, ticket_trace
from . import FALLBACK, RING
from ._course import Course, Moved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["existing_tensors", "get_ready", "sums_of"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    began = time.perf_counter()
    checkpoint = _open(course)
    opened = time.perf_counter() - began
    existing = _tensors(checkpoint)
    engine = _engine(name)

    def move() -> Moved:
        with start_load(checkpoint, existing, torch.device("cpu"), engine) as ticket:
            ticket.wait()
            stats = ticket.stats()
            trace = ticket_trace(name, checkpoint, ticket) if course.traced else None
        found = {**asdict(stats), "open_seconds": opened}
        return Moved(
            sums=lambda: sums_of(course, existing),
            first_layer_seconds=stats.first_group_seconds,
            stats=found,
            trace=trace,
        )

    return move


def _engine(name: str) -> CopyEngine:
    options = StreamOptions()
    pool = ReadPool(options)
    if name == FALLBACK:
        pool.remote = RemoteClient(connections=0, threads=1, library="no libcurl")
    pool.remote.native()  # made before the clock starts, as others' clients are
    return CopyEngine(_native.HostDevice(staged=name == RING), options, pool=pool)


def _open(course: Course) -> Checkpoint:
    return open_checkpoint(course.url, storage_options=dict(course.storage_options))


def existing_tensors(course: Course) -> dict[str, torch.Tensor]:
    """Return memory for every tensor of the checkpoint, touched, by name."""
    with _open(course) as checkpoint:
        return _tensors(checkpoint)


def _tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(torch_shape(info), dtype=torch_dtype(info)) for name, info in checkpoint.items()}


def sums_of(course: Course, tensors: Mapping[str, torch.Tensor]) -> list[int]:
    """Return the CRC-32 of each object's weights, in the file's order."""
    with _open(course) as checkpoint:
        sums = [0 for _ in checkpoint.shards]
        for info in sorted(checkpoint.values(), key=lambda info: (info.shard, info.start)):
            raw = tensors[info.name].detach().reshape(-1).view(torch.uint8).numpy()
            sums[info.shard] = zlib.crc32(raw.data, sums[info.shard])
    return sums
