"""The reading threads and the staging memory that a process's loads share.

Floor 3, part of `_engine`. The native half is csrc/engine/read_pool.hpp; read that next.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import TYPE_CHECKING, Final

from .. import _native
from .._machine import memory_headroom_bytes, usable_cpus
from ._failures import raise_typed
from ._remote import RemoteClient

if TYPE_CHECKING:
    from ..options import StreamOptions
    from . import CopyEngine

_log = logging.getLogger(__name__)

DEBUG_SEED: Final = 1
"""Of the random delays in debugging; any but 0 will do."""

_MOST_READ_THREADS: Final = 8  # two fill a PCIe gen5 link from the page cache; more only steal cores from compute
_RECEIVERS: Final = 8  # one receives some 3 GB/s, or 1 GB/s of TLS; beside busy threads more get a turn
_HEADROOM_PART: Final = 4  # of what this process may still take, staging memory takes at most a quarter


class ReadPool:
    """Own reading threads and staging memory, for engines of any number of devices. Thread-safe.

    Ends with the last engine and ticket that use it: then its threads are joined and its memory is unmapped.

    Attributes:
        native: The native pool.
        engines: Those that loads to a device share, by device and options.
        remote: What fetches remote objects.
        tiers: What keeps them on the way.

    Args:
        options: Sizes and thread counts. A process that may take little more memory (a container's limit) gets a
            smaller ring than asked for, two chunks at least.
    """

    def __init__(self, options: StreamOptions) -> None:
        headroom = memory_headroom_bytes()
        staging = options.staging_bytes
        if headroom is not None:
            staging = min(staging, max(2 * options.chunk_bytes, headroom // _HEADROOM_PART))
        self.native = _native.ReadPool(
            chunk_bytes=options.chunk_bytes,
            staging_bytes=staging,
            read_threads=options.read_threads or min(_MOST_READ_THREADS, usable_cpus()),
            debug_seed=DEBUG_SEED if options.debug else 0,
        )
        self.engines: weakref.WeakValueDictionary[tuple[str, StreamOptions], CopyEngine] = weakref.WeakValueDictionary()
        self.remote = RemoteClient(connections=options.connections or 0, threads=_RECEIVERS)
        self.tiers = _native.TierThreads()
        # Made before any engine's, and so run behind theirs when the interpreter ends; the last one made runs first.
        self._tiers_finalizer = weakref.finalize(self, self.tiers.close)
        self._finalizer = weakref.finalize(self, self.remote.close)
        self._warned = False

    @property
    def pinned_bytes(self) -> int:
        """Page-locked staging memory held now, in bytes."""
        try:
            return self.native.pinned_bytes
        except _native.NativeError as error:
            raise_typed(error)

    @property
    def staging_bytes(self) -> int:
        """Staging memory held now, page-locked or not, in bytes."""
        try:
            return self.native.staging_bytes
        except _native.NativeError as error:
            raise_typed(error)

    def release(self) -> None:
        """Unpin and free the staging memory that no load holds; the next load makes its own again.

        Raises:
            StreamClosedError: The pool belongs to a parent process.
        """
        try:
            self.native.release()
        except _native.NativeError as error:
            raise_typed(error)

    def widen(self, threads: int) -> None:
        """Have at least so many reading threads from the next load on: for sources that wait more than they work."""
        if threads > 1:
            self.native.widen(threads)

    def close(self) -> None:
        """Join the threads and free the memory, once every engine that uses the pool is closed."""
        self.native.close()
        self.remote.close()
        self.tiers.close()

    def warn_of_refusals(self) -> None:
        """Say once, through `logging`, that the system refused to page-lock memory."""
        if not self._warned and (refusal := self.native.refusal):
            self._warned = True
            _log.warning(
                "staging memory could not all be page-locked, so copies run with fewer or slower buffers: %s. In a "
                "container, raise the limit of locked memory (ulimit -l, --ulimit memlock=-1)",
                refusal,
            )


# The pools in use, by (process, sizes, threads). Held weakly, so a pool ends with its last user. The one piece of
# module state: docs/decisions/2026-11-20-shared-engine.md.
_SHARED: Final[weakref.WeakValueDictionary[tuple[int | None, ...], ReadPool]] = weakref.WeakValueDictionary()


def shared_pool(options: StreamOptions) -> ReadPool:
    """Return the pool that loads with such options share in this process, made on first use."""
    key = (
        os.getpid(),
        options.chunk_bytes,
        options.staging_bytes,
        options.read_threads,
        options.connections,
        options.debug,
    )
    pool = _SHARED.get(key)
    if pool is None:
        # Two threads may both make one; the loser's pool serves its own load and ends with it.
        pool = _SHARED[key] = ReadPool(options)
    return pool
