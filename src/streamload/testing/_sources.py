"""A source that fails on purpose, and the promises every source must keep.

Floor 5. `Source` itself, the protocol both speak of, is in `streamload._sources`.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..errors import ChangedError, SourceError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._sources import Source

__all__ = ["FaultySource", "SourceTests"]

_PATTERN_NBYTES = 100_003  # a prime: no chunk size divides it


class FaultySource:
    """Read through another source, and fail at the reads you name.

    Reads are counted from 0 in the order they begin, over all threads. Owns `inner`: closing closes it.

    Args:
        inner: The source that has the bytes.
        fail: Exception to raise instead of read k.
        short: Bytes to deliver at most in read k.
        hold: Event that read k waits for before it touches the inner source.

    Attributes:
        url: The inner source's.
        nbytes: The inner source's.
        reads: The (offset, nbytes) asked for so far, in order.
        closed: True after `close`.

    Example:
        >>> source = FaultySource(MemorySource(b"abc"), fail={0: OSError(5, "Input/output error")})
    """

    def __init__(
        self,
        inner: Source,
        *,
        fail: Mapping[int, BaseException] | None = None,
        short: Mapping[int, int] | None = None,
        hold: Mapping[int, threading.Event] | None = None,
    ) -> None:
        self.url = inner.url
        self.nbytes = inner.nbytes
        self.reads: list[tuple[int, int]] = []
        self.closed = False
        self._inner = inner
        self._fail = dict(fail or {})
        self._short = dict(short or {})
        self._hold = dict(hold or {})
        self._lock = threading.Lock()  # guards reads

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Read as the inner source does, unless this read is to fail."""
        with self._lock:
            step = len(self.reads)
            self.reads.append((offset, len(buffer)))
        if step in self._hold:
            self._hold[step].wait()
        if step in self._fail:
            raise self._fail[step]
        if step in self._short:
            buffer = buffer[: self._short[step]]
        return self._inner.read_into(offset, buffer)

    def close(self) -> None:
        """Close the inner source; again does nothing."""
        if not self.closed:
            self.closed = True
            self._inner.close()


class SourceTests:
    """Hold a `Source` to its promises: inherit this in a class named `Test…` and write `make_source`.

    Example:
        >>> class TestMySource(SourceTests):
        ...     def make_source(self, data: bytes) -> Source:
        ...         return MySource(data)
    """

    def make_source(self, data: bytes) -> Source:
        """Return a new source that holds exactly `data`. Override this."""
        raise NotImplementedError

    def change(self) -> bool:
        """Replace what `make_source` made by as many other bytes, and say so. Override this where it can happen."""
        return False

    def test_knows_its_size_and_name(self) -> None:
        source = self.make_source(_pattern())
        try:
            assert source.nbytes == _PATTERN_NBYTES
            assert isinstance(source.url, str)
            assert source.url
        finally:
            source.close()

    def test_reads_every_byte(self) -> None:
        assert self._read(_pattern(), 0, _PATTERN_NBYTES) == _pattern()

    def test_reads_ranges_where_they_lie(self) -> None:
        data = _pattern()
        for offset, nbytes in ((0, 1), (1, 4095), (4096, 4096), (99_999, 4), (_PATTERN_NBYTES - 1, 1)):
            assert self._read(data, offset, nbytes) == data[offset : offset + nbytes], (offset, nbytes)

    def test_empty_buffer_reads_nothing(self) -> None:
        assert self._read(_pattern(), 17, 0) == b""

    def test_empty_source_can_be_opened_and_closed(self) -> None:
        source = self.make_source(b"")
        assert source.nbytes == 0
        source.close()

    def test_bytes_past_the_end_are_never_invented(self) -> None:
        data = _pattern()
        source = self.make_source(data)
        buffer = bytearray(b"\xee" * 64)
        try:
            count = source.read_into(_PATTERN_NBYTES - 10, memoryview(buffer))
        except SourceError:
            return
        finally:
            source.close()
        assert count == 10
        assert bytes(buffer[:10]) == data[-10:]
        assert bytes(buffer[10:]) == b"\xee" * 54

    def test_threads_read_at_once(self) -> None:
        data = _pattern()
        source = self.make_source(data)

        def read(offset: int) -> bool:
            buffer = bytearray(1000)
            count = source.read_into(offset, memoryview(buffer))
            return bytes(buffer[:count]) == data[offset : offset + 1000]

        try:
            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(read, range(0, _PATTERN_NBYTES - 1000, 997)))
        finally:
            source.close()

    def test_name_shows_no_secret(self) -> None:
        source = self.make_source(b"abc")
        try:
            for text in (source.url, repr(source)):
                assert "://" not in text or "?" not in text, "a query string may be a signature"
        finally:
            source.close()

    def test_replaced_bytes_are_never_mixed_in(self) -> None:
        source = self.make_source(_pattern())
        buffer = bytearray(1000)
        try:
            assert source.read_into(0, memoryview(buffer)) == 1000
            if not self.change():
                return
            source.read_into(50_000, memoryview(buffer))
        except ChangedError:
            return
        finally:
            source.close()
        raise AssertionError("a read of replaced bytes must raise ChangedError")

    def test_opened_again_it_reads_the_same(self) -> None:
        source = self.make_source(_pattern())
        source.close()
        reopen = getattr(source, "reopen", None)
        if reopen is None:
            return
        again = reopen()
        buffer = bytearray(1000)
        try:
            assert (again.nbytes, again.url) == (source.nbytes, source.url)
            assert again.read_into(99, memoryview(buffer)) == 1000
            assert bytes(buffer) == _pattern()[99:1099]
        finally:
            again.close()

    def test_closing_twice_is_harmless(self) -> None:
        source = self.make_source(b"abc")
        source.close()
        source.close()

    def test_reading_after_close_raises(self) -> None:
        source = self.make_source(b"abc")
        source.close()
        try:
            source.read_into(0, memoryview(bytearray(3)))
        except StreamClosedError:
            return
        raise AssertionError("read_into after close must raise StreamClosedError")

    def _read(self, data: bytes, offset: int, nbytes: int) -> bytes:
        source = self.make_source(data)
        buffer = bytearray(nbytes)
        try:
            assert source.read_into(offset, memoryview(buffer)) == nbytes
        finally:
            source.close()
        return bytes(buffer)


def _pattern() -> bytes:
    """Return bytes whose every window of four is at one place only."""
    return b"".join(
        (position * 2_654_435_761 % 2**32).to_bytes(4, "little") for position in range(_PATTERN_NBYTES // 4 + 1)
    )[:_PATTERN_NBYTES]
