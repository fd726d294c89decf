"""Answers that must come in time: a server that trickles bytes cannot hold a reader for ever.

Floor 1, part of `_sources`. `http.client` bounds how long each byte takes; here a head, the end of a body and the body
of an error have one deadline each, and the bytes asked for a least rate. Read next: `_connections`.
"""

from __future__ import annotations

import io
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

LEAST_BYTES = 1024
"""What of a body must come within `stall_seconds`."""

ERROR_BYTES = 4 << 10
"""What is read of the body of an answer without the object's bytes; with more, its connection is dropped."""


class Answer(HTTPResponse):
    """Read an answer, of which nothing may take longer than the socket's timeout when it is made."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self._timed = _Timed(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._timed)

    def expect_bytes(self) -> None:
        """Bound the rate of what comes from now on: `LEAST_BYTES` within the timeout, again and again."""
        self._timed.restart(LEAST_BYTES)

    def expect_end(self) -> None:
        """Bound all that comes from now on: it may take the timeout, in all."""
        self._timed.restart(None)

    def read_little(self) -> bytes:
        """Return the first bytes of a body that is of no interest, so that the connection may serve again."""
        self.expect_end()
        return self.read(ERROR_BYTES)


class _Timed(io.RawIOBase):
    """Read a socket, and count the time that it is waited for: not that in which nobody reads."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._seconds = sock.gettimeout()
        self.restart(None)

    def restart(self, least_bytes: int | None) -> None:
        self._left = self._seconds
        self._least = least_bytes
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._left is None or self._seconds is None:
            return self._raw.readinto(buffer)
        if self._left <= 0:
            raise TimeoutError("bytes came too slowly")
        self._sock.settimeout(self._left)
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._left -= time.monotonic() - began
        self._count += count or 0
        if self._least is not None and self._count >= self._least:
            self._left, self._count = self._seconds, 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
