"""Run a load plan: submit it to the native engine, wait for its groups, turn its failures into our errors.

Floor 3; knows bytes, not tensors. A `ReadPool` owns threads and staging memory, a `CopyEngine` loads to one device
through it, one `Ticket` is one submitted plan, a `Rotation` runs many plans again and again through slots. The native
half is csrc/engine. Read `_ticket` next.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

from .. import _native
from .._closing import Closing
from .._sources import FileSource, HttpSource
from .._sources._tiers import TieredSource
from ..errors import StreamClosedError
from ..options import StreamOptions
from ._failures import raise_typed
from ._pool import DEBUG_SEED, ReadPool, shared_pool
from ._remote import Renewal, open_remote
from ._rotation import Rotation, RotationStats
from ._ticket import CallbackSource, ChunkTrace, LoadMoments, LoadStats, Ticket
from ._tiers import fetch_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._native import CudaDevice, HostDevice
    from .._plan import LoadPlan
    from .._sources import Source

__all__ = [
    "ChunkTrace",
    "CopyEngine",
    "LoadMoments",
    "LoadStats",
    "ReadPool",
    "Rotation",
    "RotationStats",
    "Ticket",
    "fetch_whole",
    "map_file",
    "open_device",
    "shared_engine",
]


class CopyEngine(Closing):
    """Load to one device; a context manager.

    Thread-safe. Ends with its last reference: tickets keep what they need by themselves. In a forked child an
    engine made by the parent raises `StreamClosedError`.

    Args:
        device: Where bytes go, from `open_device` or made by hand.
        options: Sizes and thread counts.
        pool: Threads and staging memory to share with other engines. None: the engine's own.
    """

    def __init__(
        self, device: HostDevice | CudaDevice, options: StreamOptions | None = None, *, pool: ReadPool | None = None
    ) -> None:
        self._device = device
        self._options = StreamOptions() if options is None else options
        self._owns_pool = pool is None
        try:
            self._pool = ReadPool(self._options) if pool is None else pool
            self._native = _native.CopyEngine(device, self._pool.native)
        except _native.NativeError as error:
            raise_typed(error)
        # Runs when the engine is collected and, at the latest, before the interpreter ends: no native thread may
        # meet a Python that is going away.
        self._finalizer = weakref.finalize(self, _close, self._native)
        self._closed = False

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
        return self._closed

    @property
    def pinned_bytes(self) -> int:
        """Page-locked host memory of the engine's pool, now, in bytes; 0 once closed."""
        return 0 if self._closed else self._pool.pinned_bytes

    @property
    def staging_bytes(self) -> int:
        """Staging memory of the engine's pool, now, page-locked or not, in bytes; 0 once closed."""
        return 0 if self._closed else self._pool.staging_bytes

    def warn_of_refusals(self) -> None:
        """Say once, through `logging`, that the system refused to page-lock memory."""
        self._pool.warn_of_refusals()

    def release(self) -> None:
        """Give back the staging memory that no load holds; the next load makes its own again."""
        self._pool.release()

    def submit(
        self,
        plan: LoadPlan,
        sources: Sequence[Source],
        *,
        after_stream: int | None = None,
        keep_alive: Sequence[object] = (),
        key_names: Sequence[str] = (),
    ) -> Ticket:
        """Start a load and return at once.

        Args:
            plan: What to read and where it goes. Its addresses must be memory of this engine's device.
            sources: What the plan's source indices mean. A `FileSource` is opened again by the native engine
                and may be closed once this returns, and so may a remote one; others must stay open until the ticket
                is done.
            after_stream: The CUDA stream, as an integer, on which the destinations were allocated; the first
                copy waits for what it has queued. None: nothing to wait for.
            keep_alive: What owns the destinations; held until the last copy has landed.
            key_names: What the keys of the plan's checksums are called in an error.

        Raises:
            ChangedError: A file is no longer the one whose header was read.
            FileNotFoundError: A file is gone.
            PermissionError: A file may no longer be read.
            DeviceError: The device refused a stream or an event.
            StreamClosedError: The engine is closed, or belongs to a parent process.
        """
        if self.closed:
            raise StreamClosedError("the copy engine is closed")
        callbacks: list[CallbackSource | Renewal] = []
        try:
            native_sources = [self._open(source, callbacks) for source in sources]
            ticket = self._native.submit(
                plan.reads,
                plan.copies,
                plan.sums,
                plan.expected,
                plan.group_count,
                native_sources,
                after_stream,
                (tuple(keep_alive), plan),
            )
        except _native.NativeError as error:
            raise_typed(error)
        return Ticket(ticket, callbacks, self, key_names, sources)

    def rotate(
        self,
        plans: Sequence[LoadPlan],
        sources: Sequence[Source],
        *,
        slot_of: Sequence[int],
        slots: Sequence[tuple[int, int]],
        order: Sequence[int],
        after_stream: int | None = None,
        keep_alive: Sequence[object] = (),
        key_names: Sequence[Sequence[str]] = (),
        debug: bool = False,
    ) -> Rotation:
        """Start to pass units through slots of device memory and return at once.

        Args:
            plans: One for each unit, of one group, with addresses inside the unit's slot.
            sources: What the plans' source indices mean; as for `submit`, but those that are not a `FileSource` must
                stay open until the rotation is closed.
            slot_of: The slot of each unit.
            slots: Address and length in bytes of each slot.
            order: Units in the order in which a pass uses them; as `Rotation.set_order` takes it.
            after_stream: The CUDA stream, as an integer, on which the slots were allocated. None: nothing to wait for.
            keep_alive: What owns the slots; held until the rotation is closed.
            key_names: What the keys of each plan's checksums are called in an error.
            debug: Poison slots between fills, delay at random and check every rule of order. Slow.

        Raises:
            ValueError: Plans, slots and order contradict each other.
            ChangedError, FileNotFoundError, PermissionError, DeviceError, StreamClosedError: As `submit` does.
        """
        if self.closed:
            raise StreamClosedError("the copy engine is closed")
        if any(plan.group_count != 1 for plan in plans):
            raise ValueError("each unit takes a plan of one group")
        callbacks: list[CallbackSource | Renewal] = []
        try:
            rotation = _native.rotate(
                self._native,
                [(plan.reads, plan.copies, plan.sums, plan.expected) for plan in plans],
                [self._open(source, callbacks) for source in sources],
                list(slot_of),
                list(slots),
                list(order),
                after_stream,
                tuple(keep_alive),
                DEBUG_SEED if debug else 0,
            )
        except _native.NativeError as error:
            raise_typed(error)
        names = [name for unit in key_names for name in unit]
        return Rotation(rotation, callbacks, self, names, sources)

    def close(self) -> None:
        """Cancel every load, wait for its threads and copies. Harmless when repeated."""
        self._closed = True
        if not self._native.close():  # every caller waits, also beside another; a source of the engine's own cannot
            return
        self._finalizer.detach()
        if self._owns_pool:
            self._pool.close()

    def fetches(self, source: Source) -> bool:
        """Whether the native engine asks a source's store by itself, rather than through `read_into`."""
        remote = isinstance(source, HttpSource) and not source.by_python
        return remote and self._pool.remote.native() is not None

    def _open(self, source: Source, callbacks: list[CallbackSource | Renewal]) -> _native.Source:
        if isinstance(source, FileSource):
            stamp = source.stamp
            return _native.file_source(
                os.fsencode(source.path),
                stamp.device,
                stamp.inode,
                stamp.nbytes,
                stamp.mtime_ns,
                self._options.direct_io,
            )
        remote = self._open_remote(source, callbacks)
        if remote is not None:
            return remote
        if self._options.read_threads is None:
            self._pool.widen(getattr(source, "read_concurrency", 1))
        reopen = getattr(source, "reopen", None)  # the clone lives with the ticket, whatever becomes of the source
        callback = CallbackSource(source if reopen is None else reopen())
        callbacks.append(callback)
        return _native.callback_source(source.url, callback.read_into)

    def _open_remote(self, source: Source, callbacks: list[CallbackSource | Renewal]) -> _native.Source | None:
        """Return a source that is fetched natively, through its tiers; None where only Python can read it."""
        if isinstance(source, TieredSource):
            inner = self._open_remote(source.inner, callbacks)
            return None if inner is None else _native.tiered_source(self._pool.tiers, inner, source.cache)
        if not isinstance(source, HttpSource) or source.by_python:
            return None
        client = self._pool.remote.native()
        if client is None:
            return None
        renewal = Renewal(source)
        callbacks.append(renewal)
        native = open_remote(client, source, renewal)
        return native if source.cache is None else _native.tiered_source(self._pool.tiers, native, source.cache)


def _close(native: _native.CopyEngine) -> None:
    """Close an engine that was collected, or that lives when the interpreter ends: then its waiters stay asleep."""
    if not native.close(abandon=not threading.main_thread().is_alive()):
        atexit.register(_close, native)  # collected by a source of its own: somebody has to wait for that one yet


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
        began = time.monotonic()
        try:
            opened = _native.CudaDevice(int(ordinal or 0))
        except _native.NativeError as error:
            raise_typed(error)
        sys.audit("streamload.coldstart.phase", "cuda_context", device, began, time.monotonic())
        return opened
    raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")


def shared_engine(device: str, options: StreamOptions) -> CopyEngine:
    """Return the engine that loads to `device` with `options` share, made on first use.

    Engines of several devices share one pool, so that a process has one set of reading threads and one staging ring.

    Raises:
        ValueError, DeviceError: As `open_device`.
    """
    pool = shared_pool(options)
    engine = pool.engines.get((device, options))
    if engine is None or engine.closed:
        engine = pool.engines[device, options] = CopyEngine(open_device(device), options, pool=pool)
    return engine


def map_file(source: FileSource) -> _native.MappedFile:
    """Map a file into memory, privately: writes stay in this process. Unmapped with its last reference.

    Raises:
        ChangedError: The file is no longer the one whose header was read.
        FileNotFoundError, PermissionError, SourceError: It cannot be opened or mapped.
    """
    stamp = source.stamp
    try:
        return _native.MappedFile(os.fsencode(source.path), stamp.device, stamp.inode, stamp.nbytes, stamp.mtime_ns)
    except _native.NativeError as error:
        raise_typed(error)
