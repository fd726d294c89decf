"""Fetch the missing ranges of one object into its partial file.

Part of `_pull`. What the native engine can ask for itself it also writes: a plan of reads without copies, from a source
that has the partial file as its cache. All else is read by threads of Python, through `read_into`. While either works
the bytes that are there are summed.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from .._closing import Closing
from .._engine import CopyEngine, open_device
from .._plan import make_reading_plan
from ..errors import ShortReadError, StreamClosedError

if TYPE_CHECKING:
    from .._engine import Ticket
    from .._plan import LoadPlan
    from .._sources import Source
    from ..options import StreamOptions
    from ._digest import Digest
    from ._partial import WorkFiles

_LOOK_SECONDS: Final = 0.05  # between two looks for new bytes to sum
_DEFAULT_CONNECTIONS: Final = 16


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
        missing = files.missing()
        if missing and _fetches_natively(source):
            self._fetch_natively(source, files, digest, missing)
            missing = files.missing()
        if missing:
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
        source.cache = files.cache  # type: ignore[attr-defined]  # only an HttpSource is fetched natively
        plan = self._plan(missing)
        with self._engine.submit(plan, [source]) as ticket:
            while not self._landed(ticket):
                if files.cache.broken:
                    raise files.why_broken()
                while digest.advance(files.cache.covers) and not ticket.done:
                    pass
        if files.cache.broken:
            raise files.why_broken()

    def _plan(self, missing: list[tuple[int, int]]) -> LoadPlan:
        ranges = [(0, start, end) for start, end in missing]
        return make_reading_plan(ranges, chunk_bytes=self._options.chunk_bytes)

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


def _fetches_natively(source: Source) -> bool:
    """Whether the engine asks for the source's bytes by itself."""
    return False
