"""What a model that `from_pretrained` loaded is watched by.

Part of `transformers`. It is an attribute of the model, so it must be harmless there: a copy of the model has one of
its own, which has nothing to do, and a pickle of the model has None and needs no streamload to be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._closing import Closing
from ..torch._stats import add_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._engine import LoadStats
    from ..torch import ModuleStream

__all__ = ["PretrainedStream"]


class PretrainedStream(Closing):
    """Watch a model that `from_pretrained` has returned being filled, and let it sleep. Thread-safe.

    A model that was not streamed has one too, which is done.

    Attributes:
        module_stream: What fills the model; None where nothing of it is streamed.
        read_early: Names of the checkpoint's tensors that were read before the model was returned.
        reason: Why transformers loaded the model in its own way; None if it was streamed.
    """

    def __init__(
        self, module_stream: ModuleStream | None, *, read_early: Sequence[str] = (), reason: str | None = None
    ) -> None:
        self.module_stream = module_stream
        self.read_early = tuple(read_early)
        self.reason = reason

    def __repr__(self) -> str:
        why = "" if self.reason is None else f", not streamed: {self.reason}"
        return f"PretrainedStream({'done' if self.module_stream is None else repr(self.module_stream)}{why})"

    def __deepcopy__(self, memo: dict[int, object]) -> PretrainedStream:
        return PretrainedStream(None, reason="it is a copy of another model")

    def __reduce__(self) -> tuple[object, ...]:
        return type(None), ()

    @property
    def done(self) -> bool:
        """Whether the load is over: all is resident and nothing of it is left, or it failed, or the model sleeps."""
        return self.module_stream is None or self.module_stream.done

    @property
    def asleep(self) -> bool:
        """Whether the weights were taken off the device, by `sleep`."""
        return self.module_stream is not None and self.module_stream.asleep

    def wait(self, timeout: float | None = None) -> None:
        """Block until all is resident and the model is an ordinary one.

        Args:
            timeout: Most seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It took longer; the load goes on.
            SourceError, DeviceError, StreamClosedError: As `ModuleStream.wait`.
        """
        if self.module_stream is not None:
            self.module_stream.wait(timeout)

    def progress(self) -> float:
        """Return the share of bytes that are resident, from 0 to 1."""
        return 1.0 if self.module_stream is None else self.module_stream.progress()

    def stats(self) -> LoadStats:
        """Return what the load did so far; zeros where nothing was streamed."""
        return add_up([]) if self.module_stream is None else self.module_stream.stats()

    def cancel(self) -> None:
        """Stop the load; using the model raises `StreamClosedError`. Does not block; no effect once it is done."""
        if self.module_stream is not None:
            self.module_stream.cancel()

    def sleep(self) -> None:
        """Free the device memory of the weights, which are in their files; `ModuleStream.sleep` says what that means.

        Raises:
            RuntimeError: Nothing of the model was streamed, or a weight was changed since. Nothing was freed.
            StreamClosedError: This was closed.
        """
        if self.module_stream is None:
            why = "" if self.reason is None else f": {self.reason}"
            raise RuntimeError(f"the model was not streamed, so nothing could wake it{why}")
        self.module_stream.sleep()

    def wake(self) -> None:
        """Stream the weights back; returns at once. `ModuleStream.wake` says what that means."""
        if self.module_stream is not None:
            self.module_stream.wake()

    def close(self) -> None:
        """Cancel what has not arrived, and wait for copies under way. Harmless when repeated."""
        if self.module_stream is not None:
            self.module_stream.close()
