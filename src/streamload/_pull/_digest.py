"""SHA-256 of a file, also of one that is still being written.

Part of `_pull`. Reads through the page cache, where bytes that just arrived still are; hashlib lets go of the GIL.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from .._closing import Closing
from ..errors import ShortReadError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

_STEP_BYTES: Final = 1 << 20  # stays in L2 between the read and the sum


class Digest(Closing):
    """Sum a file from its first byte on, as far as it is there; a context manager.

    Args:
        path: The file.
        nbytes: Its length once it is whole.
        stop: Ends what `advance` does.
    """

    def __init__(self, path: str, nbytes: int, stop: Event) -> None:
        self._path = path
        self._nbytes = nbytes
        self._stop = stop
        self._sum = hashlib.sha256()
        self._at = 0
        self._buffer = memoryview(bytearray(min(_STEP_BYTES, max(nbytes, 1))))
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def summed(self) -> int:
        """Bytes that are summed."""
        return self._at

    @property
    def done(self) -> bool:
        """Whether every byte is summed."""
        return self._at == self._nbytes

    @property
    def hexdigest(self) -> str:
        """SHA-256 of what is summed so far."""
        return self._sum.hexdigest()

    def advance(self, covers: Callable[[int, int], bool]) -> bool:
        """Sum the next bytes, if `covers(offset, nbytes)` says that they are there; whether they were.

        Raises:
            StreamClosedError: `stop` was set.
            ShortReadError: They are not there.
            OSError: The file cannot be read.
        """
        if self._stop.is_set():
            raise StreamClosedError(f"{self._path}: the pull was stopped")
        nbytes = min(len(self._buffer), self._nbytes - self._at)
        if not nbytes or not covers(self._at, nbytes):
            return False
        part = self._buffer[:nbytes]
        count = os.preadv(self._descriptor, [part], self._at)
        if count == 0:
            text = f"{self._path}: the file ended after {self._at} of {self._nbytes} bytes"
            raise ShortReadError(text, url=self._path, offset=self._at, nbytes=nbytes)
        self._sum.update(part[:count])
        self._at += count
        return True

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def sha256_of(path: str, stop: Event, passed: Callable[[int], None] | None = None) -> tuple[str, int]:
    """Return the SHA-256 of a whole file, and its length.

    Args:
        path: The file.
        stop: Ends it.
        passed: Called with the number of bytes each time some are summed.

    Raises:
        StreamClosedError: `stop` was set.
        OSError: The file cannot be read.
    """
    nbytes = os.stat(path).st_size  # noqa: PTH116 - a str
    with Digest(path, nbytes, stop) as digest:
        before = 0
        while digest.advance(lambda start, nbytes: True):
            if passed is not None:
                passed(digest.summed - before)
            before = digest.summed
        return digest.hexdigest, nbytes
