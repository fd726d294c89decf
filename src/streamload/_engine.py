"""Run a load plan: submit it to the native engine, wait for its groups, turn its failures into our errors.

Floor 3; knows bytes, not tensors. `CopyEngine` owns threads and pinned memory, one `Ticket` is one submitted
plan. The native half is csrc/engine; read `csrc/engine/ticket.hpp` next for the order of threads and events.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from . import _native
from ._sources import FileSource
from .errors import (
    ChangedError,
    DeviceError,
    ShortReadError,
    SourceError,
    StreamClosedError,
    StreamloadError,
)
from .options import StreamOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

    from ._native import CudaDevice, HostDevice
    from ._plan import LoadPlan
    from ._sources import Source

__all__ = [
    "ChunkTrace",
    "CopyEngine",
    "LoadStats",
    "Ticket",
    "map_file",
    "open_device",
    "shared_engine",
]

_ROUTES: Final = ("buffered", "direct", "in_place", "callback")
_MOST_READ_THREADS: Final = 8  # two fill a PCIe gen5 link from the page cache; more only steal cores from compute


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStats:
    """Say what a load did so far.

    Attributes:
        bytes_total: Bytes the plan wants.
        bytes_read: Bytes read from the sources, wanted ones only.
        bytes_resident: Bytes that have landed on the device.
        buffered_bytes: Of `bytes_read`, those read through the page cache.
        direct_bytes: Those read around it (`O_DIRECT`).
        in_place_bytes: Those read straight into their destination.
        callback_bytes: Those a Python source delivered.
        groups: Groups of the plan; each is waited for as one.
        groups_resident: Groups whose bytes have all landed.
        pinned_bytes: Page-locked host memory the engine holds now; 0 once the ticket is closed.
        seconds: From submission until all was resident, or until now.
        first_group_seconds: From submission until the first group was resident; 0 before.
        stall_seconds: Time consumers spent waiting on the host, summed over threads.
    """

    bytes_total: int
    bytes_read: int
    bytes_resident: int
    buffered_bytes: int
    direct_bytes: int
    in_place_bytes: int
    callback_bytes: int
    groups: int
    groups_resident: int
    pinned_bytes: int
    seconds: float
    first_group_seconds: float
    stall_seconds: float


@dataclass(frozen=True, slots=True)
class ChunkTrace:
    """Tell where the time of one read went, in seconds since the plan was submitted.

    Attributes:
        group: Group the read belongs to.
        source: Index of the source it came from.
        thread: Index of the reader thread.
        route: "buffered", "direct", "in_place" or "callback".
        offset: First byte, in the source.
        nbytes: Length in bytes.
        read_start: When the read began.
        read_end: When its bytes were in host memory.
        copy_issued: When its copies were on the copy stream.
        copy_done: When they had landed.
    """

    group: int
    source: int
    thread: int
    route: str
    offset: int
    nbytes: int
    read_start: float
    read_end: float
    copy_issued: float
    copy_done: float


class CopyEngine:
    """Own the threads and the pinned ring that move bytes to one device; a context manager.

    Thread-safe. Ends with its last reference: tickets keep what they need by themselves. In a forked child an
    engine made by the parent raises `StreamClosedError`.

    Args:
        device: Where bytes go, from `open_device` or made by hand.
        options: Sizes and thread counts.
    """

    def __init__(self, device: HostDevice | CudaDevice, options: StreamOptions | None = None) -> None:
        self._device = device
        self._options = StreamOptions() if options is None else options
        threads = self._options.read_threads or min(_MOST_READ_THREADS, len(os.sched_getaffinity(0)))
        try:
            self._native = _native.CopyEngine(
                device,
                chunk_bytes=self._options.chunk_bytes,
                staging_bytes=self._options.staging_bytes,
                read_threads=threads,
            )
        except _native.NativeError as error:
            _raise_typed(error)
        # Runs when the engine is collected and, at the latest, before the interpreter ends: no native thread may
        # meet a Python that is going away.
        self._finalizer = weakref.finalize(self, self._native.close)

    @property
    def device(self) -> HostDevice | CudaDevice:
        """Where bytes go."""
        return self._device

    @property
    def options(self) -> StreamOptions:
        """What the engine was made with."""
        return self._options

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    @property
    def pinned_bytes(self) -> int:
        """Page-locked host memory held now, in bytes."""
        return self._native.pinned_bytes

    def submit(
        self,
        plan: LoadPlan,
        sources: Sequence[Source],
        *,
        after_stream: int | None = None,
        keep_alive: Sequence[object] = (),
    ) -> Ticket:
        """Start a load and return at once.

        Args:
            plan: What to read and where it goes. Its addresses must be memory of this engine's device.
            sources: What the plan's source indices mean. A `FileSource` is opened again by the native engine
                and may be closed once this returns; others must stay open until the ticket is done.
            after_stream: The CUDA stream, as an integer, on which the destinations were allocated; the first
                copy waits for what it has queued. None: nothing to wait for.
            keep_alive: What owns the destinations; held until the last copy has landed.

        Raises:
            ChangedError: A file is no longer the one whose header was read.
            FileNotFoundError: A file is gone.
            PermissionError: A file may no longer be read.
            DeviceError: The device refused a stream or an event.
            StreamClosedError: The engine is closed, or belongs to a parent process.
        """
        if self.closed:
            raise StreamClosedError("the copy engine is closed")
        callbacks: list[_CallbackSource] = []
        try:
            native_sources = [self._open(source, callbacks) for source in sources]
            ticket = self._native.submit(
                plan.reads, plan.copies, plan.group_count, native_sources, after_stream, (tuple(keep_alive), plan)
            )
        except _native.NativeError as error:
            _raise_typed(error)
        return Ticket(ticket, callbacks, self)

    def close(self) -> None:
        """Cancel every load, wait for its threads and copies. Harmless when repeated."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, source: Source, callbacks: list[_CallbackSource]) -> _native.Source:
        if isinstance(source, FileSource):
            stamp = source.stamp
            return _native.file_source(
                source.path, stamp.device, stamp.inode, stamp.nbytes, stamp.mtime_ns, self._options.direct_io
            )
        callback = _CallbackSource(source)
        callbacks.append(callback)
        return _native.callback_source(source.url, callback.read_into)


class Ticket:
    """One submitted plan: wait for its groups, watch it, cancel it; a context manager.

    Thread-safe. Once a load has failed, every wait raises the same error. Dropping the last reference cancels
    what is not done and waits for the copies under way.
    """

    def __init__(self, native: _native.Ticket, callbacks: Sequence[_CallbackSource], engine: CopyEngine) -> None:
        self._native = native
        self._callbacks = callbacks
        self._engine: CopyEngine | None = engine  # let go of on close, so that its ring ends with its last load

    @property
    def group_count(self) -> int:
        """Groups of the plan."""
        return self._native.group_count

    @property
    def done(self) -> bool:
        """Whether everything is resident, or the load failed or was cancelled."""
        return self._native.done

    @property
    def failed(self) -> bool:
        """Whether the load failed or was cancelled."""
        return self._native.failed

    def resident(self, group: int) -> bool:
        """Whether the group's bytes have all landed, so that nobody need wait for them again."""
        return self._native.resident(group)

    def wait(self, timeout: float | None = None) -> None:
        """Block until every group is resident.

        Args:
            timeout: Most seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It took longer; the load goes on.
            SourceError: A read failed (`ShortReadError`, `ChangedError` among them).
            DeviceError: The device failed, or memory could not be pinned.
            StreamClosedError: The load was cancelled, or belongs to a parent process.
        """
        try:
            ready = self._native.wait_all(timeout)
        except _native.NativeError as error:
            self._raise(error)
        if not ready:
            raise TimeoutError(f"the load was not complete after {timeout} seconds; it goes on")

    def wait_group(self, group: int, *, stream: int | None = None) -> bool:
        """Block until a group may be used, and say whether it is resident.

        On CUDA with a stream: blocks only until the group's copies are enqueued, then makes the stream wait for
        them; work put on that stream afterwards sees the bytes. Without a stream, and on a host device: blocks
        until the bytes are there. The GIL is released and signals are served meanwhile.

        Returns:
            True when the group is resident: no thread and no stream need wait for it again.

        Raises:
            SourceError, DeviceError, StreamClosedError: As `wait` does.
        """
        try:
            return self._native.wait_group(group, stream, None)[1]
        except _native.NativeError as error:
            self._raise(error)

    def promote(self, group: int) -> None:
        """Make the unread part of a group the next to be read."""
        self._native.promote(group)

    def cancel(self) -> None:
        """Stop the load; waiters raise `StreamClosedError`. Does not block; no effect on a load that is done."""
        self._native.cancel()

    def close(self) -> None:
        """Cancel what is not done, wait for threads and copies, let go of the files. Harmless when repeated."""
        self._native.close()
        self._engine = None

    def stats(self) -> LoadStats:
        """Return what the load did so far."""
        return LoadStats(**self._native.stats())  # type: ignore[arg-type]  # keys are the fields, checked by a test

    def trace(self) -> list[ChunkTrace]:
        """Return one record for each read whose copies have landed, in plan order."""
        return [
            ChunkTrace(group, source, thread, _ROUTES[route], *rest)
            for group, source, thread, route, *rest in self._native.trace()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raise(self, error: _native.NativeError) -> NoReturn:
        cause = next((callback.error for callback in self._callbacks if callback.error is not None), None)
        _raise_typed(error, cause)


class _CallbackSource:
    """Let native threads read a Python source, and keep the first exception it raised."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.error: BaseException | None = None

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        try:
            return self._source.read_into(offset, buffer)
        except BaseException as error:  # a thread's top: the caller's thread raises it
            if self.error is None:
                self.error = error
            raise


def open_device(device: str) -> HostDevice | CudaDevice:
    """Open the device that a torch-style name stands for: "cpu", "cuda" (the first GPU) or "cuda:N".

    Raises:
        ValueError: The name is of no such form.
        DeviceError: There is no driver, or no such GPU.
    """
    kind, _, ordinal = device.partition(":")
    if kind == "cpu" and ordinal in ("", "0"):
        return _native.HostDevice()
    if kind == "cuda" and (ordinal or "0").isdecimal():
        try:
            return _native.CudaDevice(int(ordinal or 0))
        except _native.NativeError as error:
            _raise_typed(error)
    raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")


# Engines in use, by (process, device, options): the loads of a process share one ring. Held weakly, so an engine
# ends with its last user. The one piece of module state: docs/decisions/2026-11-20-shared-engine.md.
_SHARED: Final[weakref.WeakValueDictionary[tuple[int, str, StreamOptions], CopyEngine]] = weakref.WeakValueDictionary()


def shared_engine(device: str, options: StreamOptions) -> CopyEngine:
    """Return the engine that loads to `device` with `options` share, made on first use.

    Raises:
        ValueError, DeviceError: As `open_device`.
    """
    key = (os.getpid(), device, options)
    engine = _SHARED.get(key)
    if engine is None or engine.closed:
        # Two threads may both make one; the loser's engine serves its own load and ends with it.
        engine = _SHARED[key] = CopyEngine(open_device(device), options)
    return engine


def map_file(source: FileSource) -> _native.MappedFile:
    """Map a file into memory, privately: writes stay in this process. Unmapped with its last reference.

    Raises:
        ChangedError: The file is no longer the one whose header was read.
        FileNotFoundError, PermissionError, SourceError: It cannot be opened or mapped.
    """
    stamp = source.stamp
    try:
        return _native.MappedFile(source.path, stamp.device, stamp.inode, stamp.nbytes, stamp.mtime_ns)
    except _native.NativeError as error:
        _raise_typed(error)


_SOURCE_ERRORS: Final = {
    "read_failed": SourceError,
    "callback_failed": SourceError,
    "short_read": ShortReadError,
    "changed": ChangedError,
}
_PATH_ERRORS: Final = {"not_found": FileNotFoundError, "permission": PermissionError}
_DEVICE_ERRORS: Final = ("no_device", "device_failed", "out_of_device_memory", "out_of_pinned_memory")
_CLOSED_ERRORS: Final = ("cancelled", "closed", "forked")


def _raise_typed(error: _native.NativeError, cause: BaseException | None = None) -> NoReturn:
    """Raise the exception a native failure stands for: the one table between `Code` and Python classes."""
    text = str(error)
    origin = error if cause is None else cause
    if isinstance(cause, StreamloadError):
        raise cause
    if error.code in _SOURCE_ERRORS:
        number: int | None = error.system_code or None
        if cause is not None:
            number = cause.errno if isinstance(cause, OSError) else None
            text = (
                f"{error.source}: reading {error.nbytes} bytes at offset {error.offset}: "
                f"{type(cause).__name__}: {cause}"
            )
        raise _SOURCE_ERRORS[error.code](
            text, url=error.source, offset=error.offset, nbytes=error.nbytes, errno=number
        ) from origin
    if error.code in _PATH_ERRORS:
        raise _PATH_ERRORS[error.code](error.system_code, text, error.source) from origin
    if error.code in _DEVICE_ERRORS:
        raise DeviceError(text, code=error.system_code) from origin
    if error.code in _CLOSED_ERRORS:
        raise StreamClosedError(text) from origin
    raise ValueError(text) from origin
