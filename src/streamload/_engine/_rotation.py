"""Units of weights that take turns in slots of device memory, pass after pass.

Floor 3, part of `_engine`. The work is done in csrc/engine; read `csrc/engine/rotation.hpp` next for the order of
threads and events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .. import _native
from .._closing import Closing
from ._failures import raise_typed

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from .._sources import Source
    from . import CopyEngine
    from ._remote import Renewal
    from ._ticket import CallbackSource

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStats:
    """Say what a rotation did so far.

    Attributes:
        units: Units that take turns.
        slots: Slots they take turns in.
        fills: Times that a unit was put into its slot, completed.
        bytes_streamed: Bytes that those fills put into slots.
        bytes_from_host: Of `bytes_streamed`, those copied from page-locked host memory.
        bytes_read: Bytes read from sources for those fills.
        demanded_fills: Fills that nobody had predicted: a thread waited for a unit that the order of the pass put
            elsewhere or nowhere.
        wasted_fills: Fills whose unit was overwritten before anybody had acquired it.
        passes: Passes that were begun.
        stall_seconds: Time that threads spent blocked in `acquire`, summed over threads.
        seconds: Since the rotation was started.
    """

    units: int
    slots: int
    fills: int
    bytes_streamed: int
    bytes_from_host: int
    bytes_read: int
    demanded_fills: int
    wasted_fills: int
    passes: int
    stall_seconds: float
    seconds: float


class Rotation(Closing):
    """Pass units through slots of device memory, as often as they are used; a context manager.

    Made by `CopyEngine.rotate`. A thread of its own fills slots ahead of use, in the order of the pass and on into the
    next one; what is used out of order is fetched when somebody asks for it. Thread-safe; what a thread acquires, the
    same thread releases. The first failed fill fails the rotation: every waiter and every later `acquire` raise the
    same error. Dropping the last reference closes it. In a forked child every call raises `StreamClosedError`.
    """

    def __init__(
        self,
        native: _native.Rotation,
        callbacks: Sequence[CallbackSource | Renewal],
        engine: CopyEngine,
        key_names: Sequence[str] = (),
        sources: Sequence[Source] = (),
    ) -> None:
        self._native = native
        self._callbacks = callbacks
        self._key_names = key_names
        # Here, where the collector sees them: a source may hold on to its load.
        self._sources: tuple[Source, ...] = tuple(sources)
        self._engine: CopyEngine | None = engine  # let go of on close, so that its threads end with its last load

    @property
    def unit_count(self) -> int:
        """Units that take turns."""
        return self._call(lambda native: native.unit_count)

    def acquire(self, unit: int, *, stream: int | None) -> None:
        """Block until a unit may be used, and hold it until `release`.

        On CUDA with a stream: blocks only until the unit's copies are enqueued, then makes the stream wait for them.
        Without a stream, and on a host device: blocks until the bytes are there. The GIL is released and signals are
        served meanwhile. A thread that holds the unit may acquire it again and releases it as often.

        Raises:
            SourceError, FileNotFoundError, PermissionError: A fill could not be read (`ShortReadError`,
                `ChangedError` among them).
            ChecksumError: A tensor's bytes are not those that its plan expects.
            DeviceError: The device failed.
            StreamClosedError: The rotation is closed or cancelled, or belongs to a parent process.
            RuntimeError: The calling thread holds another unit: nested units could wait for their own slot.
            ValueError: There is no such unit.
        """
        self._call(lambda native: native.acquire(unit, stream))

    def release(self, unit: int, *, stream: int | None) -> None:
        """Say that all work of this thread with a unit is enqueued on `stream`, or done where that is None.

        Never blocks. Harmless after `close` for a unit that is held.

        Raises:
            RuntimeError: The calling thread does not hold the unit.
            DeviceError: The device refused an event.
        """
        self._call(lambda native: native.release(unit, stream))

    def begin_pass(self) -> None:
        """Begin a pass: what the order predicted for the last one and was not used is skipped."""
        self._call(lambda native: native.begin_pass())

    def set_order(self, order: Sequence[int]) -> None:
        """Predict another order from here on; what lies in slots stays there as long as it is of use.

        Args:
            order: Units in the order of a pass. One may stand several times, or not at all: then it is only fetched
                when it is asked for.

        Raises:
            ValueError: There is no such unit.
        """
        self._call(lambda native: native.set_order(list(order)))

    def keep_on_host(self, unit: int, copies: array[int], owner: object) -> None:
        """Take a unit from page-locked host memory, from its next fill on.

        Args:
            unit: Whose bytes they are.
            copies: Unsigned 64-bit, three to a copy: host address, device address, length in bytes.
            owner: What keeps the host memory; held until the rotation is closed.

        Raises:
            ValueError: A copy goes outside the unit's slot, or there is no such unit.
            StreamClosedError: The rotation is closed.
        """
        self._call(lambda native: native.keep_on_host(unit, copies, owner))

    def stats(self) -> RotationStats:
        """Return what the rotation did so far."""
        return RotationStats(**self._call(lambda native: native.stats()))  # type: ignore[arg-type]  # keys are the fields, checked by a test

    def cancel(self) -> None:
        """Stop filling; waiters raise `StreamClosedError`. Does not block."""
        self._call(lambda native: native.cancel())

    def abandon(self) -> None:
        """Stop at the interpreter's end; see `Ticket.abandon`."""
        self._call(lambda native: native.cancel(abandon=True))

    def close(self) -> None:
        """Stop filling, wake every waiter, wait for copies under way, let go of the files. Harmless when repeated.

        The slots themselves are the caller's: work that uses them may still run on the device.
        """
        self._native.close()
        self._engine = None
        self._sources = ()

    def _call(self, use: Callable[[_native.Rotation], T]) -> T:
        try:
            return use(self._native)
        except _native.NativeError as error:
            raised = (c.error for c in self._callbacks if c.error is not None and c.url == error.source)
            cause = next(raised, None) if error.code == "callback_failed" else None
            raise_typed(error, cause, self._key_names)
