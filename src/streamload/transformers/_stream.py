"""What a model that streams is watched by.

Part of `transformers`. It is an attribute of the model, so it must be harmless there: a copy of the model has one of
its own, which has nothing to do, and a pickle of the model has None and needs no streamload to be read. Most of a model
is filled as `stream_module` fills one; what is cast on the way arrives beside it. Here both are one.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import torch

from .._closing import Closing
from ..torch._casting import CastLoad
from ..torch._gate import without_gates
from ..torch._sleep import Bed, give_memory, put_to_sleep
from ..torch._stats import add_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import LoadStats
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
        self._sleepers: list[torch.Tensor] = []
        self.nbytes = sum([tensor.nbytes for _, tensor, _ in taken])
        self.load = self._start([tensor for _, tensor, _ in taken])

    @property
    def asleep(self) -> bool:
        """Whether they have no memory."""
        return bool(self._sleepers)

    def check(self) -> list[torch.Tensor]:
        """Return the tensors, once it is sure that they are as they were loaded."""
        return [tensor for bed, _ in self._beds if (tensor := bed.tensor()) is not None]

    def sleep(self, tensors: list[torch.Tensor]) -> None:
        """Free their memory."""
        self.load.cancel()
        self.load.join()
        self._sleepers = tensors
        if tensors:
            put_to_sleep(tensors, tensors[0].device)

    def wake(self) -> None:
        """Bring them back."""
        tensors = self._sleepers
        give_memory(tensors, [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in tensors])
        with without_gates():
            for tensor, (bed, _) in zip(tensors, self._beds, strict=True):
                bed.remember(tensor)
        self.load = self._start(tensors)
        self._sleepers = []

    def _start(self, tensors: Sequence[torch.Tensor]) -> CastLoad:
        groups: list[list[tuple[torch.Tensor, Sequence[CastPiece]]]] = []
        size = _GROUP_BYTES
        for tensor, (_, pieces) in zip(tensors, self._beds, strict=True):
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
        if self.module_stream is not None:
            return self.module_stream.asleep
        return self._casts is not None and self._casts.asleep

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
        """Return the share of bytes that are resident, from 0 to 1."""
        stream = self.module_stream
        sizes = [] if stream is None else [(stream.progress(), stream.resident_bytes)]
        if self._casts is not None:
            sizes.append((self._casts.load.progress(), self._casts.nbytes))
        total = sum([nbytes for _, nbytes in sizes])
        return sum([part * nbytes for part, nbytes in sizes]) / total if total else 1.0

    def stats(self) -> LoadStats:
        """Return what the load did so far, without what is cast; zeros where nothing was streamed."""
        return add_up([]) if self.module_stream is None else self.module_stream.stats()

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
            if self.asleep:
                return
            if self.module_stream is None and self._casts is None:
                why = "" if self.reason is None else f": {self.reason}"
                raise RuntimeError(f"the model was not streamed, so nothing could wake it{why}")
            cast = [] if self._casts is None else self._casts.check()
            if self.module_stream is not None:
                self.module_stream.sleep()
            if self._casts is not None:
                self._casts.sleep(cast)

    def wake(self) -> None:
        """Stream the weights back; returns at once. `ModuleStream.wake` says what that means."""
        with self._lock:
            if not self.asleep:
                return
            if self.module_stream is not None:
                self.module_stream.wake()
            if self._casts is not None:
                self._casts.wake()
