"""Where weights go, and how fast anything could bring them there.

Part of `bench._overlap`; needs torch.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from ... import _native
from ..._checkpoint import open as open_checkpoint
from ..._machine import cached_fraction, usable_cpus
from ..._sources import local_path
from .._ceiling import Buffer, cut_pieces, opened, read_piece, spread
from .._memory import give_back_memory, touch_free_memory

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from ..._format import TensorInfo
    from ..._native import CudaDevice, HostDevice

__all__ = ["Files", "Place", "open_files"]

_PROBE_BYTES = 256 << 20  # of a link
_READ_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Name where weights go, for torch and for the engine.

    Attributes:
        torch_device: "cpu" or "cuda:N".
        device: What engines are made over.
        paced: Bytes a second of the simulated link; None where the link is real.
    """

    torch_device: str
    device: HostDevice | CudaDevice
    paced: float | None = None

    @property
    def on_host(self) -> bool:
        """Whether the link is simulated."""
        return self.torch_device == "cpu"

    def paced_at(self, bytes_per_second: float) -> Place:
        """Return the host behind another simulated link."""
        device = _native.HostDevice(link_bytes_per_second=bytes_per_second)
        return Place(self.torch_device, device, bytes_per_second)

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if not self.on_host:
            torch.cuda.synchronize(self.torch_device)

    def settle(self, nbytes: int) -> None:
        """Make what comes next start as every other: nothing queued, nothing to collect, as much memory free.

        Args:
            nbytes: What the next run takes of the device's memory.
        """
        give_back_memory()
        if self.on_host:
            touch_free_memory(nbytes)
        else:
            torch.cuda.empty_cache()
        self.synchronize()

    def link_rate(self) -> float:
        """Measure the link, in bytes a second: pinned memory to the device. A simulated one keeps its pace."""
        if self.paced is not None:
            return self.paced  # a probe would be slower by what its thread wakes late, which a load makes up for
        return _PROBE_BYTES / median(self.device.measure_link(_PROBE_BYTES, 1 if self.on_host else 3))


@dataclass(frozen=True, slots=True)
class Files:
    """Hold a checkpoint's files, to read them as fast as they can be.

    Attributes:
        paths: The shards.
        tensors: What holds weights.
        layer_of: The layer of each tensor, by name.
    """

    paths: tuple[Path, ...]
    tensors: tuple[TensorInfo, ...]
    layer_of: Mapping[str, str]

    def storage_rate(self) -> float:
        """Read every weight once into small buffers used again, and return the bytes a second."""
        pieces = cut_pieces(((t.shard, t.start, t.end, 0) for t in self.tensors), _READ_BYTES)
        buffers = [Buffer(_READ_BYTES) for _ in range(usable_cpus())]
        with ExitStack() as stack:
            descriptors = opened(self.paths, stack)
            began = time.perf_counter()
            spread(lambda thread, piece: read_piece(descriptors, piece, buffers[thread].address), pieces, len(buffers))
            seconds = time.perf_counter() - began
        return sum(piece.nbytes for piece in pieces) / seconds

    def by_layer(self, parts: Sequence[tuple[str, float]]) -> dict[str, float]:
        """Add up the seconds of parts by the layer whose tensors they hold; what has none counts for the one before."""
        layers: dict[str, str] = {}
        for name, layer in self.layer_of.items():
            layers.setdefault(name.rpartition(".")[0], layer)
        found: dict[str, float] = {}
        layer = next(iter(self.layer_of.values()), "")
        for part, seconds in parts:
            layer = layers.get(part, layer)
            found[layer] = found.get(layer, 0.0) + seconds
        return found

    def cached(self) -> float | None:
        """Return the part of the files that the page cache holds; None where the kernel will not say."""
        parts = [cached_fraction(path) for path in self.paths]
        known = [part for part in parts if part is not None]
        return sum(known) / len(known) if len(known) == len(parts) else None


def open_files(path: str | os.PathLike[str]) -> Files:
    """Find the files of a checkpoint, and where its weights lie in them.

    Raises:
        FormatError, FileNotFoundError: As opening it does.
    """
    with open_checkpoint(path) as checkpoint:
        paths = tuple(Path(local_path(shard.url)) for shard in checkpoint.shards)
        tensors = sorted((t for t in checkpoint.values() if t.nbytes), key=lambda t: (t.shard, t.start))
        layer_of = {tensor.name: layer.name for layer in checkpoint.layers for tensor in layer.tensors}
    return Files(paths, tuple(tensors), layer_of)
