"""Watch how much memory of its own this process holds at most, and give back what it does not use.

Floor 6; stdlib only. Pages of mapped files are not counted: the page cache holds them anyway. The kernel keeps no
highest mark of the rest, so a thread looks every millisecond; this costs time, and nothing is timed meanwhile.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading
from typing import TYPE_CHECKING

from .._machine import private_bytes, usable_cpus

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MemoryWatch", "SpareMemory", "give_back_memory", "map_large_blocks", "touch_free_memory"]

_EVERY_SECONDS = 0.001
_M_MMAP_THRESHOLD = -3  # malloc.h
_MAPPED_BYTES = 128 << 10  # what glibc begins with: mallopt(3)


class MemoryWatch:
    """Watch this process's memory from entry to exit; a context manager.

    Attributes:
        peak_bytes: Most memory above that at entry, once left; None where unknown.
    """

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._start = private_bytes()
        self._seen = self._start or 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="bench-memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        if self._start is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._start is not None:
            self._thread.join()
            self._seen = max(self._seen, private_bytes() or 0)
            self.peak_bytes = self._seen - self._start

    def _look(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self._seen = max(self._seen, private_bytes() or 0)


def give_back_memory() -> None:
    """Give what was freed back to the system, as far as it lets itself be: new memory is to be new for everyone."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def map_large_blocks() -> None:
    """Have malloc map every block of 128 KiB and more for the rest of the process, and unmap it once it is freed.

    So it is in a process that has freed none yet. With each one that is freed, glibc raises the size from which it
    maps; a loader that is called again then gets pages that it has written to, and one that is called once does not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; a size that is set is not raised any more
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


class SpareMemory:
    """Hold memory that was written to between runs, and leave it free for each of them; a context manager.

    A virtual machine's host takes back what its guest has left free for some two seconds, and new pages then cost a
    guest several times as much. Who pays would be a matter of chance: what is let go of just before a run is still the
    guest's, and taken again just after it costs little.

    Args:
        nbytes: How much; 0 holds nothing.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._held: mmap.mmap | None = None

    def __enter__(self) -> SpareMemory:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self) -> None:
        """Take it from the system and write to it; nothing when it is held."""
        if self._held is not None or not self._nbytes:
            return
        self._held = memory = mmap.mmap(-1, self._nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        window = (ctypes.c_char * 1).from_buffer(memory)
        try:
            _write_zeros(ctypes.addressof(window), self._nbytes)
        finally:
            del window  # a view left over would keep the mapping from closing

    def release(self) -> None:
        """Give it back to the system; nothing when it is not held."""
        if self._held is not None:
            self._held.close()
            self._held = None


def touch_free_memory(nbytes: int) -> None:
    """Take memory from the system, write to it, and give it back: what comes next gets pages that cost it as little."""
    with SpareMemory(nbytes):
        pass


def _write_zeros(address: int, nbytes: int) -> None:
    """Write by every processor: what the host has to give again comes as much faster."""
    each = -(-nbytes // usable_cpus())
    parts = [(start, min(each, nbytes - start)) for start in range(0, nbytes, each)]
    threads = [threading.Thread(target=ctypes.memset, args=(address + start, 0, size)) for start, size in parts]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    finally:  # also when interrupted: they write to what is unmapped next
        for thread in started:
            thread.join()
