"""What a model that streams is watched by.

Part of `transformers`. It is an attribute of the model, so it must be harmless there: a copy of the model has one of
its own, which has nothing to do, and a pickle of the model has None and needs no streamload to be read. Most of a model
is filled as `stream_module` fills one; what is cast on the way arrives beside it. Here both are one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .._closing import Closing
from .._engine import LoadMoments
from ..torch._casting import CastLoad
from ..torch._gate import without_gates
from ..torch._sleep import Bed, give_memory, put_to_sleep
from ..torch._stats import at_once

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import LoadStats
    from .._trace import Trace
    from ..options import StreamOptions
    from ..torch import ModuleStream
    from ..torch._casting import CastPiece
    from ..torch._seats import Seat

__all__ = ["CastWeights", "PretrainedStream"]

_GROUP_BYTES = 16 << 20  # of what is cast together: as `_groups.GROUP_BYTES`, in elements of the file's dtype


class CastWeights:
    """The weights of a model that are cast while they arrive, to load them as often as needed.

    Args:
        taken: Seat, the real tensor in it, and what that is made of; in the module's order.
        checkpoint: Where the bytes are; may be closed.
        options: How to read and stage.
    """

    def __init__(
        self,
        taken: Sequence[tuple[Seat, torch.Tensor, Sequence[CastPiece]]],
        checkpoint: Checkpoint,
        options: StreamOptions | None,
    ) -> None:
        self._checkpoint, self._options = checkpoint, options
        self._beds = [(Bed(found, tensor, pieces[0].info, table=False), pieces) for found, tensor, pieces in taken]
        self._sleepers: list[tuple[torch.Tensor, Bed, Sequence[CastPiece]]] | None = None
        self.load = self._start([(tensor, pieces) for _, tensor, pieces in taken])

    @property
    def asleep(self) -> bool:
        """Whether they have no memory."""
        return self._sleepers is not None

    @property
    def headers_read(self) -> tuple[float, float] | None:
        """When their checkpoint's headers were read, as the checkpoint says it."""
        return self._checkpoint.headers_read

    def check(self) -> list[tuple[torch.Tensor, Bed, Sequence[CastPiece]]]:
        """Return those tensors whose module is still there, once it is sure that they are as they were loaded."""
        return [(tensor, bed, pieces) for bed, pieces in self._beds if (tensor := bed.tensor()) is not None]

    def sleep(self, found: list[tuple[torch.Tensor, Bed, Sequence[CastPiece]]]) -> None:
        """Free the memory of what `check` found."""
        self.load.cancel()
        self.load.join()
        self._sleepers = found
        if found:
            put_to_sleep([tensor for tensor, _, _ in found], found[0][0].device)

    def wake(self) -> None:
        """Bring back those that sleep, and start anew where the load failed."""
        if self.load.failed and not self.asleep:
            self.sleep(self.check())
        if self._sleepers is None:
            return
        tensors = [tensor for tensor, _, _ in self._sleepers]
        give_memory(tensors, [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in tensors])
        with without_gates():
            for tensor, bed, _ in self._sleepers:
                bed.remember(tensor)
        self.load = self._start([(tensor, pieces) for tensor, _, pieces in self._sleepers])
        self._sleepers = None

    def _start(self, members: Sequence[tuple[torch.Tensor, Sequence[CastPiece]]]) -> CastLoad:
        groups: list[list[tuple[torch.Tensor, Sequence[CastPiece]]]] = []
        size = _GROUP_BYTES
        for tensor, pieces in members:
            if size >= _GROUP_BYTES:
                groups.append([])
                size = 0
            groups[-1].append((tensor, pieces))
            size += sum([piece.part.nbytes for piece in pieces])
        return CastLoad(groups, self._checkpoint, self._options)


class PretrainedStream(Closing):
    """Watch a model being filled; made by `from_pretrained`. Thread-safe.

    Attributes:
        module_stream: What fills most of it; None where all was computed or cast.
        read_early: Names of the checkpoint's tensors that were read before the model was returned.
        reason: Why transformers loaded the model in its own way; None if it was streamed.
    """

    def __init__(
        self,
        module_stream: ModuleStream | None,
        casts: CastWeights | None = None,
        *,
        read_early: Sequence[str] = (),
        reason: str | None = None,
    ) -> None:
        self.module_stream = module_stream
        self.read_early = tuple(read_early)
        self.reason = reason
        self._casts = casts
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = "asleep" if self.asleep else f"{self.progress():.0%} resident"
        return f"PretrainedStream({state}{'' if self.reason is None else f', not streamed: {self.reason}'})"

    def __deepcopy__(self, memo: dict[int, object]) -> PretrainedStream:
        return PretrainedStream(None, reason="it is a copy of another model")

    def __reduce__(self) -> tuple[object, ...]:
        return type(None), ()

    @property
    def done(self) -> bool:
        """Whether the load is over: all is resident and nothing of it is left, or it failed, or the model sleeps."""
        parts = (self.module_stream is None or self.module_stream.done, self._casts is None or self._casts.load.over)
        return all(parts)

    @property
    def asleep(self) -> bool:
        """Whether the weights were taken off the device, by `sleep`."""
        sleeping = (
            self.module_stream is not None and self.module_stream.asleep,
            self._casts is not None and self._casts.asleep,
        )
        return any(sleeping)

    def wait(self, timeout: float | None = None) -> None:
        """Block until all is resident and the model is an ordinary one.

        Args:
            timeout: Most seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It took longer; the load goes on.
            SourceError, DeviceError, StreamClosedError: As `ModuleStream.wait`.
        """
        began = time.monotonic()
        if self.module_stream is not None:
            self.module_stream.wait(timeout)
        if self._casts is not None:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            self._casts.load.wait(left)

    def progress(self) -> float:
        """Return the share of bytes that are resident, from 0 to 1; of what is cast, bytes of the file."""
        if self.asleep:
            return 0.0
        stats = self.stats()
        return stats.bytes_resident / stats.bytes_total if stats.bytes_total else 1.0

    def stats(self) -> LoadStats:
        """Return what the load did so far; zeros where nothing was streamed.

        What is cast on the way is in it, by its bytes in the file and in groups of its own. What was computed before
        the model was returned is not (`read_early`).
        """
        parts = [] if self.module_stream is None else [self.module_stream.stats()]
        if self._casts is not None:
            parts.append(self._casts.load.stats())
        return at_once(parts)

    def moments(self) -> LoadMoments | None:
        """Return when the load did what, as `ModuleStream.moments`; None where nothing was streamed.

        Of weights that are cast on the way no layers are told.
        """
        whole = None if self.module_stream is None else self.module_stream.moments()
        if self._casts is None or (whole is not None and whole.submitted <= self._casts.load.submitted):
            return whole
        if whole is not None:
            return replace(whole, submitted=self._casts.load.submitted)
        return LoadMoments(headers=self._casts.headers_read, submitted=self._casts.load.submitted, layers={}, used={})

    def trace(self) -> Trace:
        """Return when the load did what, as `ModuleStream.trace`; of weights that are cast on the way nothing.

        Raises:
            RuntimeError: Nothing of the model was streamed as it is.
            StreamClosedError: As `ModuleStream.trace`.
        """
        return self._traced().trace()

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write `trace` as `ModuleStream.write_trace` does.

        Raises:
            RuntimeError: Nothing of the model was streamed as it is.
            OSError, StreamClosedError: As `ModuleStream.write_trace`.
        """
        self._traced().write_trace(path)

    def _traced(self) -> ModuleStream:
        if self.module_stream is None:
            why = "" if self.reason is None else f": {self.reason}"
            raise RuntimeError(f"nothing of the model was streamed as it is, so there is no trace{why}")
        return self.module_stream

    def cancel(self) -> None:
        """Stop the load; using the model raises `StreamClosedError`. Does not block; no effect once it is done."""
        if self.module_stream is not None:
            self.module_stream.cancel()
        if self._casts is not None:
            self._casts.load.cancel()

    def close(self) -> None:
        """Cancel what has not arrived, and wait for copies under way. Harmless when repeated."""
        self.cancel()
        if self.module_stream is not None:
            self.module_stream.close()
        if self._casts is not None:
            self._casts.load.join()

    def sleep(self) -> None:
        """Free the device memory of the weights, which are in their files; `ModuleStream.sleep` says what that means.

        Raises:
            RuntimeError: Nothing of the model was streamed, or a weight was written to, converted, moved or replaced
                since. Nothing was freed.
            StreamClosedError: This was closed.
        """
        with self._lock:
            if self.module_stream is None and self._casts is None:
                why = "" if self.reason is None else f": {self.reason}"
                raise RuntimeError(f"the model was not streamed, so nothing could wake it{why}")
            found = None if self._casts is None or self._casts.asleep else self._casts.check()
            if self.module_stream is not None:
                self.module_stream.sleep()
            if self._casts is not None and found is not None:
                self._casts.sleep(found)

    def wake(self) -> None:
        """Stream the weights back; returns at once. `ModuleStream.wake` says what that means."""
        with self._lock:
            if self.module_stream is not None:
                self.module_stream.wake()
            if self._casts is not None:
                self._casts.wake()
