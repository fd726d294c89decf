"""Fetch the missing ranges of one object into its partial file.

Part of `_pull`. What the native engine can ask for itself it also writes: a plan of reads without copies, from a source
that has the partial file as its cache. All else is read by threads of Python, through `read_into`. While either works
the bytes that are there are summed.
"""

from __future__ import annotations

import threading
import time
from array import array
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from .._checksums import UNKNOWN, plan_sums
from .._closing import Closing
from .._engine import CopyEngine, open_device
from .._plan import make_reading_plan
from .._sources._tiers import TieredSource
from ..errors import ShortReadError, StreamClosedError

if TYPE_CHECKING:
    from .._engine import Ticket
    from .._native import CacheFile
    from .._plan import LoadPlan
    from .._sources import Source
    from ..options import StreamOptions
    from ._digest import Digest
    from ._partial import WorkFiles

_LOOK_SECONDS: Final = 0.05  # between two looks for new bytes to sum
_WRITING_SECONDS: Final = 60.0  # that bytes which arrived may take to be written: 64 MB at most, on a busy disk
_DEFAULT_CONNECTIONS: Final = 16


class _Written(TieredSource):
    """An object on its way into its partial file, as the engine takes it: read once, never from here."""

    def __init__(self, inner: Source, cache: CacheFile) -> None:
        super().__init__(inner, cache, None, None)  # type: ignore[arg-type]  # of a tier nothing is asked


class Fetcher(Closing):
    """Own what fetches for all files of a pull: the engine and the reading threads; a context manager. Thread-safe.

    Args:
        options: How to read.
        stop: Ends every fetch.
    """

    def __init__(self, options: StreamOptions, stop: threading.Event) -> None:
        self._options = options
        self._stop = stop
        self._engine = CopyEngine(open_device("cpu"), options)
        self._readers = ThreadPoolExecutor(options.connections or _DEFAULT_CONNECTIONS, "streamload-pull")
        self._buffers: SimpleQueue[bytearray] = SimpleQueue()

    def fetch(self, source: Source, files: WorkFiles, digest: Digest) -> None:
        """Fetch what is missing and sum everything.

        Raises:
            ChangedError, FileNotFoundError, PermissionError, SourceError: The source could not be read.
            OSError: The partial file could not be written.
            StreamClosedError: The pull was stopped.
        """
        self._put_head(source, files)
        if (missing := files.missing()) and self._engine.fetches(source):
            self._fetch_natively(source, files, digest, missing)
        if missing := files.missing():
            self._fetch_by_threads(source, files, digest, missing)
        while digest.advance(files.cache.covers):
            pass
        if not digest.done:
            text = f"{source.url}: {files.cache.nbytes - files.cache.covered_bytes} bytes did not arrive"
            raise ShortReadError(text, url=source.url)

    def _put_head(self, source: Source, files: WorkFiles) -> None:
        """Keep the first bytes, which came when the source was opened: a small file needs no other request."""
        head = getattr(source, "head", b"")
        if head and not files.cache.covers(0, len(head)):
            files.put(0, memoryview(head))
        forget = getattr(source, "forget_head", None)
        if forget is not None:
            forget()

    def _fetch_natively(self, source: Source, files: WorkFiles, digest: Digest, missing: list[tuple[int, int]]) -> None:
        cache = files.cache
        with self._engine.submit(self._plan(missing), [_Written(source, cache)]) as ticket:
            landed = False
            while not landed and not cache.broken:
                landed = self._landed(ticket)
                while digest.advance(cache.covers) and not cache.broken:
                    pass
        # What landed last is still being written, unless the disk is full.
        patience = time.monotonic() + _WRITING_SECONDS
        while not cache.broken and not cache.complete and time.monotonic() < patience:
            if not digest.advance(cache.covers) and self._stop.wait(_LOOK_SECONDS):
                raise StreamClosedError("the pull was stopped")
        if cache.broken:
            raise files.why_broken()

    def _plan(self, missing: list[tuple[int, int]]) -> LoadPlan:
        ranges = [(0, start, end) for start, end in missing]
        plan = make_reading_plan(ranges, chunk_bytes=self._options.chunk_bytes)
        # The engine refuses a read that is for nothing; a CRC-32C costs least, and nobody compares it.
        sums, _ = plan_sums(plan, ranges)
        return replace(plan, sums=sums, expected=array("Q", [UNKNOWN]) * len(ranges))

    def _landed(self, ticket: Ticket) -> bool:
        if self._stop.is_set():
            raise StreamClosedError("the pull was stopped")
        try:
            ticket.wait(timeout=_LOOK_SECONDS)
        except TimeoutError:
            return False
        return True

    def _fetch_by_threads(
        self, source: Source, files: WorkFiles, digest: Digest, missing: list[tuple[int, int]]
    ) -> None:
        given_up = threading.Event()
        cut = self._plan(missing).reads
        reads = [
            self._readers.submit(self._read, source, files, start, start + nbytes, given_up)
            for start, nbytes in zip(cut[1::5], cut[2::5], strict=True)
        ]
        try:
            waiting: set[Future[None]] = set(reads)
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK_SECONDS, return_when=FIRST_EXCEPTION)
                for read in done:
                    read.result()
                while digest.advance(files.cache.covers):
                    pass
        finally:
            given_up.set()
            for read in reads:
                read.cancel()
            wait(reads)

    def _read(self, source: Source, files: WorkFiles, start: int, end: int, given_up: threading.Event) -> None:
        if self._stop.is_set() or given_up.is_set():
            raise StreamClosedError("the pull was stopped")
        try:
            buffer = self._buffers.get_nowait()
        except Empty:
            buffer = bytearray(self._options.chunk_bytes)
        try:
            part = memoryview(buffer)[: end - start]
            count = source.read_into(start, part)
            if count != end - start:
                text = f"{source.url}: the source ended after {start + count} of {files.cache.nbytes} bytes"
                raise ShortReadError(text, url=source.url, offset=start, nbytes=end - start)
            files.put(start, part)
        finally:
            self._buffers.put(buffer)

    def close(self) -> None:
        """Wait for the threads. Harmless when repeated."""
        self._readers.shutdown(cancel_futures=True)
        self._engine.close()
