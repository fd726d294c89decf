"""Serve bytes that are already in memory as a `Source`.

Floor 1, part of `_sources`. For weights that arrived some other way, and for tests.
"""

from __future__ import annotations

from .._closing import Closing
from ..errors import StreamClosedError


class MemorySource(Closing):
    """Read from bytes held in memory; a context manager.

    The bytes are borrowed, not copied: whoever made them must not change them while they are read.

    Args:
        data: Contiguous bytes; kept alive until `close`.
        url: What error messages call them.
    """

    def __init__(self, data: bytes | bytearray | memoryview, *, url: str = "memory:") -> None:
        self._view = memoryview(data).cast("B").toreadonly()
        self._url = url
        self._nbytes = len(self._view)
        self._closed = False

    @property
    def url(self) -> str:
        """What error messages call the bytes."""
        return self._url

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self._nbytes

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Copy bytes from `offset` on into `buffer` and return how many there were.

        Raises:
            ValueError: `offset` is negative.
            StreamClosedError: The source is closed.
        """
        if self._closed:
            raise StreamClosedError(f"{self._url}: the source is closed")
        if offset < 0:
            raise ValueError(f"{self._url}: expected an offset from 0 on, got {offset}")
        target = memoryview(buffer).cast("B")
        piece = self._view[offset : offset + len(target)]
        target[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Let go of the bytes. Harmless when repeated."""
        self._closed = True
        self._view = memoryview(b"")

    def __repr__(self) -> str:
        return f"MemorySource({self._url!r}, nbytes={self._nbytes}{', closed' if self._closed else ''})"
