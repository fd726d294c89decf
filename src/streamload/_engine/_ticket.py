"""One submitted plan: wait for it, watch it, cancel it.

Floor 3, part of `_engine`. The work is done in csrc/engine; read `csrc/engine/ticket.hpp` next for the order of
threads and events.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from .. import _native
from .._closing import Closing
from ._failures import raise_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._sources import Source
    from . import CopyEngine
    from ._remote import Renewal

T = TypeVar("T")
_ROUTES: Final = ("buffered", "direct", "callback", "remote")
_CACHE_STATES: Final = ("unknown", "cached", "uncached")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStats:
    """Say what a load did so far.

    Attributes:
        bytes_total: Bytes the plan wants copied.
        bytes_read: Bytes read from the sources: those wanted and, between rows, the gaps that are read through.
        bytes_resident: Bytes that have landed on the device.
        buffered_bytes: Of `bytes_read`, those read through the page cache.
        direct_bytes: Those read around it (`O_DIRECT`).
        callback_bytes: Those a Python source delivered.
        remote_bytes: Those fetched over the network.
        in_place_bytes: Of `bytes_read`, those read straight into their destination, by whatever route.
        cached_bytes: Of `bytes_read`, those that lay in the page cache when their read was chosen.
        uncached_bytes: Those that did not. Of the rest the kernel said nothing.
        probed_bytes: Those whose state was judged by timing, since the kernel would not say.
        cached_direct_bytes: Those read around the page cache though it held them: forced, or judged wrongly.
        uncached_buffered_bytes: Those read through the page cache though it did not hold them: forced, or the file
            system has no direct reads.
        uring_bytes: Of `direct_bytes`, those read through io_uring.
        requests: Requests sent for remote objects, repeated ones included.
        retries: Of those, the ones sent because one before had failed.
        resumes: Of those, the ones that asked only for what was missing.
        hedges: Requests sent beside a slow one, to see which is faster.
        throttled: Answers by which a store said that it was asked too often.
        renewals: How often a URL or credentials had run out and were renewed.
        tier_bytes: Of `remote_bytes`, those that came from a cache tier instead.
        tier_written_bytes: Those that were written to a cache tier on the way.
        groups: Groups of the plan; each is waited for as one.
        groups_resident: Groups whose bytes have all landed.
        staging_bytes: Staging memory that this process's loads share, now; 0 once the ticket is closed.
        pinned_bytes: Of `staging_bytes`, what is page-locked.
        seconds: From submission until all was resident, or until now.
        first_byte_seconds: From submission until the first copy had landed; 0 before.
        first_group_seconds: From submission until the first group was resident; 0 before.
        stall_seconds: Time consumers spent waiting on the host, summed over threads.
        read_cpu_seconds: Processor time of the threads that read.
    """

    bytes_total: int
    bytes_read: int
    bytes_resident: int
    buffered_bytes: int
    direct_bytes: int
    callback_bytes: int
    remote_bytes: int
    in_place_bytes: int
    cached_bytes: int
    uncached_bytes: int
    probed_bytes: int
    cached_direct_bytes: int
    uncached_buffered_bytes: int
    uring_bytes: int
    requests: int
    retries: int
    resumes: int
    hedges: int
    throttled: int
    renewals: int
    tier_bytes: int
    tier_written_bytes: int
    groups: int
    groups_resident: int
    staging_bytes: int
    pinned_bytes: int
    seconds: float
    first_byte_seconds: float
    first_group_seconds: float
    stall_seconds: float
    read_cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMoments:
    """Say when a load did what, on `time.monotonic()`'s clock, which all processes of a machine share.

    Attributes:
        headers: When reading the checkpoint's headers began, and when it ended.
        submitted: When the weights were asked for.
        layers: When each layer that is resident was so, in the plan's order.
        used: When each layer was first used, of those that were used while they arrived; in that order.
    """

    headers: tuple[float, float] | None
    submitted: float
    layers: Mapping[str, float]
    used: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ChunkTrace:
    """Tell where the time of one read went, in seconds since the plan was submitted.

    Attributes:
        group: Group the read belongs to.
        source: Index of the source it came from.
        thread: Index of the reader thread.
        route: "buffered", "direct", "callback" or "remote".
        cache: "cached", "uncached" or "unknown": what the page cache held when the read was chosen.
        in_place: Whether the bytes were read straight into their destination.
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
    cache: str
    in_place: bool
    offset: int
    nbytes: int
    read_start: float
    read_end: float
    copy_issued: float
    copy_done: float


class Ticket(Closing):
    """One submitted plan: wait for its groups, watch it, cancel it; a context manager.

    Thread-safe. Once a load has failed, every wait raises the same error. Dropping the last reference cancels
    what is not done and waits for the copies under way.
    """

    def __init__(
        self,
        native: _native.Ticket,
        callbacks: Sequence[CallbackSource | Renewal],
        engine: CopyEngine,
        key_names: Sequence[str] = (),
        sources: Sequence[Source] = (),
    ) -> None:
        elapsed = native.stats()["seconds"]  # asked first: a moment too late at worst, never before the submission
        self.submitted = time.monotonic() - elapsed
        self._native = native
        self._callbacks = callbacks
        self._key_names = key_names
        # Here, where the collector sees them: a source may hold on to its load.
        self._sources: tuple[Source, ...] = tuple(sources)
        self._engine: CopyEngine | None = engine  # let go of on close, so that its threads end with its last load

    @property
    def group_count(self) -> int:
        """Groups of the plan."""
        return self._call(lambda native: native.group_count)

    @property
    def done(self) -> bool:
        """Whether everything is resident, or the load failed or was cancelled."""
        return self._call(lambda native: native.done)

    @property
    def failed(self) -> bool:
        """Whether the load failed or was cancelled."""
        return self._call(lambda native: native.failed)

    def resident(self, group: int) -> bool:
        """Whether the group's bytes have all landed, so that nobody need wait for them again."""
        return self._call(lambda native: native.resident(group))

    def wait(self, timeout: float | None = None) -> None:
        """Block until every group is resident.

        Args:
            timeout: Most seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It took longer; the load goes on.
            ChecksumError: A tensor's bytes are not those that the plan expects.
            SourceError: A read failed (`ShortReadError`, `ChangedError` among them).
            FileNotFoundError, PermissionError: A file could no longer be opened when it was first read.
            DeviceError: The device failed, or memory could not be pinned.
            StreamClosedError: The load was cancelled, or belongs to a parent process.
        """
        if not self._call(lambda native: native.wait_all(timeout)):
            raise TimeoutError(f"the load was not complete after {timeout} seconds; it goes on")
        if (engine := self._engine) is not None:
            engine.warn_of_refusals()

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
        return self._call(lambda native: native.wait_group(group, stream))

    def promote(self, group: int) -> None:
        """Make the unread part of a group the next to be read."""
        self._call(lambda native: native.promote(group))

    def cancel(self) -> None:
        """Stop the load; waiters raise `StreamClosedError`. Does not block; no effect on a load that is done."""
        self._call(lambda native: native.cancel())

    def abandon(self) -> None:
        """Stop the load at the interpreter's end.

        Threads that wait for it, but the main one, sleep on until the process is gone: they must not come back into
        a Python that is going away.
        """
        self._call(lambda native: native.cancel(abandon=True))

    def close(self) -> None:
        """Cancel what is not done, wait for threads and copies, let go of the files. Harmless when repeated."""
        self._native.close()
        self._engine = None
        self._sources = ()

    def stats(self) -> LoadStats:
        """Return what the load did so far."""
        stats: dict[str, float] = dict(self._call(lambda native: native.stats()))
        for callback in self._callbacks:
            for name, count in callback.request_counts.items():
                stats[name] += count
        return LoadStats(**stats)  # type: ignore[arg-type]  # keys are the fields, checked by a test

    def trace(self) -> list[ChunkTrace]:
        """Return one record for each read whose copies have landed, in plan order."""
        return [
            ChunkTrace(group, source, thread, _ROUTES[route], _CACHE_STATES[cache], in_place, offset, nbytes, *times)
            for group, source, thread, route, cache, in_place, offset, nbytes, *times in self._call(
                lambda native: native.trace()
            )
        ]

    def sums(self) -> list[int | None]:
        """Return the CRC-32C of each key of the plan; None for a key of no bytes or of a group that is not resident."""
        return self._call(lambda native: native.sums())

    def _call(self, use: Callable[[_native.Ticket], T]) -> T:
        try:
            return use(self._native)
        except _native.NativeError as error:
            raised = (c.error for c in self._callbacks if c.error is not None and c.url == error.source)
            cause = next(raised, None) if error.code == "callback_failed" else None
            raise_typed(error, cause, self._key_names)


class CallbackSource:
    """Let native threads read a Python source, and keep the first exception it raised."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.url = source.url
        self.error: BaseException | None = None
        self._counts_before = self._counts()

    @property
    def request_counts(self) -> Mapping[str, int]:
        """What the source has asked of a store since, by the names of `LoadStats`, where it counts that."""
        return {name: count - self._counts_before[name] for name, count in self._counts().items()}

    def _counts(self) -> Mapping[str, int]:
        return getattr(self._source, "request_counts", {})

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        try:
            return self._source.read_into(offset, buffer)
        except BaseException as error:  # a thread's top: the caller's thread raises it
            if self.error is None:
                self.error = error
            raise
