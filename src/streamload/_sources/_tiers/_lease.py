"""Keep a published object from being evicted while somebody uses it.

Part of `_tiers`. A lease is a shared `flock` on the object's file; who evicts needs the exclusive one. The kernel drops
it with the process, also by `kill -9`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from .._file import FileSource
from ._layout import check_own

LOCK_SECONDS: Final = 5.0  # who makes room is done in milliseconds
_POLL_SECONDS: Final = 0.01


class Lease:
    """Hold a file in use until the last reference is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, seconds: float | None = None) -> Lease | None:
        """Return a lease of the file, None where there is none. Waits for who is evicting it, or looks whether he may.

        Args:
            path: The object's file.
            seconds: How long is waited.

        Raises:
            TimeoutError: It was locked for longer.
            PermissionError: It is another user's, or others may write to it.
            OSError: It cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        lease = cls(descriptor)
        check_own(path, os.fstat(descriptor), directory=False)
        take_lock(descriptor, fcntl.LOCK_SH, path, seconds)
        return lease if _is_named(descriptor, path) else None

    def discard(self, path: Path) -> None:
        """Remove the file, which is not what it should be; who has it open keeps what there is of it.

        Raises:
            OSError: It cannot be removed.
        """
        if _is_named(self._descriptor, path):
            path.unlink(missing_ok=True)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class CachedFile(FileSource):
    """Read a published object; it stays in its tier while this source, open or closed, is referenced.

    Args:
        path: The object's file.
        url: Name of the object.
        lease: Of the file.
    """

    def __init__(self, path: Path, url: str, lease: Lease) -> None:
        self.lease = lease
        super().__init__(path, url=url)

    def reopen(self) -> CachedFile:
        """Open the same file once more, also where this source is closed; the result is the caller's to close."""
        return CachedFile(Path(self.path), self.url, self.lease)


def take_lock(descriptor: int, kind: int, path: Path, seconds: float | None = None) -> None:
    """Take a lock of flock(2), which the kernel gives no time limit, and a stopped process keeps.

    Args:
        descriptor: The open file.
        kind: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        path: The file's path, for the error.
        seconds: How long is waited. None: `LOCK_SECONDS`.

    Raises:
        TimeoutError: Another process held it for longer.
        OSError: The file system has no locks.
    """
    deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                text = "another process keeps the lock; it may have been stopped"
                raise TimeoutError(errno.ETIMEDOUT, text, str(path)) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def evict(path: Path) -> bool:
    """Remove a file that nobody holds a lease of; tell whether it is gone.

    Raises:
        OSError: It cannot be opened or removed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_named(descriptor, path):
            path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def is_leased(path: Path) -> bool:
    """Whether somebody holds a lease of the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the name still means the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
