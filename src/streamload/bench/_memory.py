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

from .._machine import private_bytes

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MemoryWatch", "give_back_memory", "touch_free_memory"]

_EVERY_SECONDS = 0.001


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


def touch_free_memory(nbytes: int) -> None:
    """Take memory from the system, write to it, and give it back.

    A virtual machine's host takes back what the guest has freed, and a guest then pays for new pages several times
    over. Who pays would be a matter of chance: after this nobody does, and new pages cost what the guest makes of them.
    """
    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        window = (ctypes.c_char * 1).from_buffer(memory)
        ctypes.memset(ctypes.addressof(window), 0, nbytes)
        del window  # a view left over would keep the mapping from closing
