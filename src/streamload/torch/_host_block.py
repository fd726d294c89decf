"""Take new host memory on huge pages, which costs a fifth of what small ones do to touch for the first time.

Floor 4, part of `torch`. Nothing here touches the memory: the threads that read into it do. Read next: `_memory`.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from typing import Final

HUGE_PAGE_BYTES: Final = 2 << 20
"""The huge page of x86-64, and of arm64 with 4 KiB pages."""

MOST_WASTED: Final = 8
"""The last huge page of a block is a whole one where that takes at most this part of the block more, an eighth."""


class HostBlock:
    """Hold fresh memory of this process, freed with the last reference; zeros until written to.

    Begins at a multiple of the huge page, unless it is smaller than one. Its huge pages become resident one by one,
    as they are touched; where what does not fill the last one is too little (`MOST_WASTED`), it lies on small pages.
    So at most an eighth more than was asked for, or one small page, is ever resident.

    Attributes:
        address: The first byte.
        nbytes: Length in bytes.
        buffer: The same memory as a buffer, which keeps it alive; it may begin before `address`.
        lead: Bytes of `buffer` before `address`.

    Raises:
        MemoryError: The system refuses as much.
    """

    __slots__ = ("address", "buffer", "lead", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.buffer: mmap.mmap | bytearray
        try:
            if nbytes < HUGE_PAGE_BYTES:
                self.lead = 0
                self.buffer = bytearray(nbytes)
                self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer)) if nbytes else 0
                return
            huge = nbytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
            if nbytes > huge and huge + HUGE_PAGE_BYTES - nbytes <= nbytes // MOST_WASTED:
                huge += HUGE_PAGE_BYTES
            mapped = max(nbytes, huge) + HUGE_PAGE_BYTES  # room to begin at a multiple; untouched, it costs nothing
            self.buffer = mmap.mmap(-1, mapped, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"the system refuses {nbytes} bytes of memory: {error}") from error
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        self.lead = -base % HUGE_PAGE_BYTES
        self.address = base + self.lead
        with suppress(OSError):  # a kernel without huge pages: small ones do
            self.buffer.madvise(mmap.MADV_HUGEPAGE, self.lead, huge)
            if huge < nbytes:  # where every mapping gets huge pages unasked
                self.buffer.madvise(mmap.MADV_NOHUGEPAGE, self.lead + huge, mapped - self.lead - huge)
