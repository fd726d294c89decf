"""One load of an engine: what is yielded to it, what is read for it.

Part of `_handover`.
"""

from __future__ import annotations

import time
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._lazy import LazySource, LazyTensor, lazy_state_dict
from .._sources import FileSource
from ..torch import iter_tensors
from ..torch._deferred import DeferredFill
from ._watch import watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from .._checkpoint import Checkpoint
    from ..options import StreamOptions

__all__ = ["HandOver", "HandedOver"]

SMALL_BYTES = 4096
"""Tensors up to this are read in advance, all at once: engines ask thousands of scales for their values one by one,
and each would take a round trip to the file or the store."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Say what one rank read; made when its weights are in place.

    Attributes:
        place: What the engine took the weights to be of: a path, an id or a URL.
        bytes_read: Bytes read from the sources, gaps between rows included.
        bytes_total: Length of the data of all tensors that were offered.
        read_early: Names of tensors that were read whole, because the engine computed with them.
        seconds: From the start of the load until all was in place.
    """

    place: str
    bytes_read: int
    bytes_total: int
    read_early: tuple[str, ...]
    seconds: float


class HandOver:
    """Yield the weights of checkpoints to an engine.

    Args:
        options: How to read and stage.
    """

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._running: _Load | None = None

    @contextmanager
    def load(self, module: torch.nn.Module, place: str) -> Iterator[None]:
        """Put copies off while the block runs, and have all in place at its end.

        Only what is yielded in the block, and copied on this thread, is put off. At the end of the block
        `module.streamload` says what was done.

        Args:
            module: Whose weights they are.
            place: For `HandedOver`.

        Raises:
            SourceError, DeviceError, ChecksumError, StreamClosedError: The module is only partly filled then.
        """
        load = _Load()
        self._running = load
        try:
            with watching(load):
                yield
            load.settle()
        finally:
            self._running = None
            load.close()
        _replace_lazy(module)
        module.streamload = load.handed_over(place)  # type: ignore[assignment]  # modules take any attribute

    def weights(self, checkpoint: Checkpoint, skip: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield a checkpoint's tensors, layer by layer, each in memory of its own or lazy.

        The checkpoint is closed when nothing of it can be needed any more. A lazy tensor may be kept; it is read when
        it is used. Outside of `load`, tensors of a store are read whole, many at once.

        Args:
            checkpoint: Open; belongs to this iterator from now on.
            skip: Says which names are not wanted.

        Raises:
            SourceError, DeviceError: A small tensor cannot be read; the others raise when they are used.
        """
        infos = [info for layer in checkpoint.layers for info in layer.tensors if not skip(info.name)]
        load = self._running
        local = all(isinstance(shard.source, FileSource) for shard in checkpoint.shards)
        if load is None and not local:
            with checkpoint:
                yield from iter_tensors(checkpoint, names=[info.name for info in infos], options=self._options)
            return
        deferred = DeferredFill(checkpoint, self._options)
        source = LazySource(checkpoint, deferred)
        weakref.finalize(source, checkpoint.close)
        small = [info.name for info in infos if info.nbytes <= SMALL_BYTES]
        early = dict(iter_tensors(checkpoint, names=small, options=self._options)) if small else {}
        lazies = lazy_state_dict(checkpoint, [info.name for info in infos if info.name not in early], source=source)
        if load is not None:
            early_bytes = sum([tensor.nbytes for tensor in early.values()])
            load.add(deferred, source, early_bytes, sum([info.nbytes for info in infos]))
        for info in infos:
            tensor = early.pop(info.name, None)
            yield info.name, lazies.pop(info.name) if tensor is None else tensor


class _Load:
    """What is under way in one load; one part for each checkpoint."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._parts: list[tuple[DeferredFill, LazySource]] = []
        self._early_bytes = 0
        self._bytes_total = 0

    def add(self, deferred: DeferredFill, source: LazySource, early_bytes: int, bytes_total: int) -> None:
        """Take another checkpoint in."""
        self._parts.append((deferred, source))
        self._early_bytes += early_bytes
        self._bytes_total += bytes_total
        deferred.begin()

    def settle_for(self, tensors: Sequence[torch.Tensor], *, but: DeferredFill | None = None) -> None:
        """Do what was put off if it goes to the memory of one of the tensors; `but` keeps its own."""
        for deferred, _ in self._parts:
            if deferred is not but:
                deferred.settle_for(tensors)

    def settle(self) -> None:
        """Do all that was put off."""
        for deferred, _ in self._parts:
            deferred.settle()

    def close(self) -> None:
        """Put nothing off any more; what was is lost."""
        for deferred, _ in self._parts:
            deferred.close()

    def handed_over(self, place: str) -> HandedOver:
        """Return what was done."""
        sources = [source for _, source in self._parts]
        read = sum([deferred.stats().bytes_read for deferred, _ in self._parts])
        return HandedOver(
            place=place,
            bytes_read=read + self._early_bytes + sum([source.bytes_read for source in sources]),
            bytes_total=self._bytes_total,
            read_early=tuple([name for source in sources for name in source.names_read]),
            seconds=time.perf_counter() - self._began,
        )


def _replace_lazy(module: torch.nn.Module) -> None:
    """Put real tensors where an engine has kept lazy ones as parameters or buffers."""
    for owner in module.modules():
        for held in (owner._parameters, owner._buffers):
            for name, tensor in held.items():
                if isinstance(tensor, LazyTensor):
                    held[name] = tensor.dressed(tensor.memory())  # type: ignore[assignment]  # as it was
