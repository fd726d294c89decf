"""Read an object through a tier: what is there from its file, the rest from the store, which is then there, too.

Part of `_tiers`. What another process is fetching is waited for, and not fetched again. Where the engine reads the
store by itself (csrc/http) it does the same there; this is the way for everything else.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ... import _native
from ..._closing import Closing
from ...errors import SourceError, StreamClosedError

if TYPE_CHECKING:
    from .. import Source
    from ._layout import Facts
    from ._lease import CachedFile
    from ._tier import Tier

_POLL_SECONDS = 0.005  # a range of another's arrives in tens of milliseconds
_PATIENCE_SECONDS = 30.0
_PIECE_BYTES = 8 << 20


class TieredSource(Closing):
    """Read one object of a store through a tier; a context manager.

    Any number of threads may read at once.

    Attributes:
        inner: The object in its store.
        cache: The file that holds parts of it.
        in_memory: Whether the tier is in memory, where loads to the CPU may map the object once it is whole.

    Args:
        inner: As above; closed with this source.
        cache: As above.
        tier: Where the file is.
        facts: What the object is.
        in_memory: As above.
    """

    def __init__(
        self, inner: Source, cache: _native.CacheFile, tier: Tier, facts: Facts, *, in_memory: bool = False
    ) -> None:
        self.inner = inner
        self.cache = cache
        self.in_memory = in_memory
        self._tier = tier
        self._facts = facts
        self._closing = threading.Event()

    @property
    def url(self) -> str:
        """What error messages call the object."""
        return self.inner.url

    @property
    def nbytes(self) -> int:
        """Length of the object in bytes."""
        return self.inner.nbytes

    @property
    def etag(self) -> str:
        """Version of the object, as the store tells it."""
        return self._facts.etag

    @property
    def head(self) -> bytes:
        """First bytes of the object, where they came when it was opened."""
        head: bytes = getattr(self.inner, "head", b"")
        return head

    def forget_head(self) -> None:
        """Let go of the first bytes, once the header was read."""
        forget = getattr(self.inner, "forget_head", None)
        if forget is not None:
            forget()

    @property
    def read_concurrency(self) -> int:
        """How many threads should read at once."""
        return int(getattr(self.inner, "read_concurrency", 1))

    @property
    def request_counts(self) -> dict[str, int]:
        """What was asked of the store so far, by the names of `LoadStats`, where the object's source counts it."""
        return getattr(self.inner, "request_counts", {})

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def reopen(self) -> TieredSource:
        """Open the same version of the object once more, also where this source is closed; asks nobody."""
        reopen = getattr(self.inner, "reopen", None)
        inner: Source = self.inner if reopen is None else reopen()
        return TieredSource(inner, self.cache, self._tier, self._facts, in_memory=self.in_memory)

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Fill `buffer` from byte `offset` on and return how many bytes came; blocks.

        Fewer than asked for means that the object ends there.

        Raises:
            ValueError: `offset` is negative.
            SourceError: The store could not be read.
            StreamClosedError: The source is closed.
        """
        if offset < 0:
            raise ValueError(f"{self.url}: expected an offset from 0 on, got {offset}")
        view = memoryview(buffer).cast("B")[: max(0, self.nbytes - offset)]
        done = 0
        while done < len(view):
            count = self._read_some(offset + done, view[done:])
            if count == 0:
                break
            done += count
        return done

    def complete(self) -> CachedFile | None:
        """Fetch what is missing and return the whole object as a file; None where the tier cannot hold it. Blocks.

        The file is the caller's to close.

        Raises:
            SourceError: The store could not be read.
            StreamClosedError: The source is closed.
        """
        from concurrent.futures import ThreadPoolExecutor

        starts = range(0, self.nbytes, _PIECE_BYTES)
        local = threading.local()

        def fetch(start: int) -> None:
            if self.cache.broken or self.cache.covers(start, min(_PIECE_BYTES, self.nbytes - start)):
                return
            if not hasattr(local, "buffer"):
                local.buffer = memoryview(bytearray(_PIECE_BYTES))
            self.read_into(start, local.buffer[: min(_PIECE_BYTES, self.nbytes - start)])

        with ThreadPoolExecutor(max(1, self.read_concurrency), "streamload-tier") as threads:
            for _ in threads.map(fetch, starts):
                pass
        return self.published()

    def published(self) -> CachedFile | None:
        """Return the whole object as a file, where every byte is there; None where one is missing. May block."""
        if not self.cache.complete:
            return None
        try:
            self.cache.publish(os.fsencode(self._tier.layout.object_path(self._facts.key)), replace=False)
        except _native.NativeError as error:
            self._tier.warn("cannot be written", OSError(error.system_code, str(error)))
            return None
        return self._tier.find(self._facts)

    def close(self) -> None:
        """Close the object in its store. Harmless when repeated."""
        if not self._closing.is_set():
            self._closing.set()
            self._tier.check(self.cache)
            if self.cache.published:
                self._tier.note_published(self._facts)
        self.inner.close()

    def __repr__(self) -> str:
        return f"TieredSource({self.url!r}, nbytes={self.nbytes}{', closed' if self.closed else ''})"

    def _read_some(self, offset: int, view: memoryview) -> int:
        """Read at least a byte from whichever place has it; return how many came, 0 at the end."""
        self._check_open()
        gaps = self.cache.missing(offset, len(view))
        start, end = gaps[0] if gaps else (offset + len(view), 0)
        if start > offset:
            try:
                self.cache.read_into(offset, view[: start - offset])
            except _native.NativeError:  # a file that was cut off or a drive that fails; the store has the bytes
                return self.inner.read_into(offset, view[: start - offset])
            return start - offset
        claim = self._claim(start, end - start)
        if self.cache.missing(start, end - start) != [(start, end)]:  # others were faster
            if claim is not None:
                claim.release()
            return self._read_some(offset, view)
        try:
            count = self.inner.read_into(start, view[: end - start])
            if claim is not None and count == end - start and not self.cache.put(start, view[:count]):
                self._tier.check(self.cache)
        finally:
            if claim is not None:
                claim.release()
        return count

    def _claim(self, start: int, nbytes: int) -> _native.CacheClaim | None:
        """Return the right to fetch a range; None once it is there, or who fetches it makes no progress."""
        deadline, covered = time.monotonic() + _PATIENCE_SECONDS, -1
        while True:
            claim = self.cache.try_claim(start, nbytes)
            if claim is not None or self.cache.covers(start, nbytes):
                return claim
            now = time.monotonic()
            if covered != (covered := self.cache.covered_bytes):
                deadline = now + _PATIENCE_SECONDS
            if now >= deadline:
                return None
            self._closing.wait(_POLL_SECONDS)
            self._check_open()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise StreamClosedError(f"{self.url}: the object is closed")


class NotKeptError(SourceError, FileNotFoundError):
    """Report what no tier holds, where no store may be asked."""


class OfflineSource(Closing):
    """Stand for an object that no store is asked for: every read fails.

    Attributes:
        head: First bytes of the object, as far as they are kept.

    Args:
        facts: What is known of it.
        head: As above.
    """

    def __init__(self, facts: Facts, head: bytes = b"") -> None:
        self._facts = facts
        self.head = head

    @property
    def url(self) -> str:
        """What error messages call the object."""
        return self._facts.url

    @property
    def nbytes(self) -> int:
        """Length of the object in bytes."""
        return self._facts.nbytes

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Raise `NotKeptError`: the bytes are not in the cache."""
        raise NotKeptError(
            f"{self.url}: {len(buffer)} bytes at offset {offset} are not in the cache, and `offline` forbids to fetch "
            "them; load once without it",
            url=self.url,
            offset=offset,
            nbytes=len(buffer),
        )

    def forget_head(self) -> None:
        """Let go of the first bytes, once the header was read."""
        self.head = b""

    def close(self) -> None:
        """Do nothing."""
