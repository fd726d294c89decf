"""Read a checkpoint's bytes into small buffers that are used again and again, and copy them out.

Floor 6; stdlib only. What a pipeline through staging memory can reach when written by hand, in two forms: each
thread reads and copies out for itself, or some read and one copies. `preadv` and `memmove` release the GIL.
"""

from __future__ import annotations

import ctypes
import mmap
import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ._ceiling import opened, read_piece, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ._ceiling import Piece

__all__ = ["copy_by_another", "copy_by_each"]


def copy_by_each(files: Sequence[Path], pieces: Sequence[Piece], threads: int) -> None:
    """Let every thread read a piece into a buffer of its own and copy it out.

    Raises:
        OSError: A file cannot be opened or read to its end.
    """
    with ExitStack() as stack:
        descriptors = opened(files, stack)
        buffers = [_buffer(pieces) for _ in range(threads)]

        def move(thread: int, piece: Piece) -> None:
            address = buffers[thread].address
            read_piece(descriptors, piece, address)
            ctypes.memmove(piece.address, address, piece.nbytes)

        spread(move, pieces, threads)


def copy_by_another(files: Sequence[Path], pieces: Sequence[Piece], threads: int) -> None:
    """Let `threads` threads read pieces into a ring of buffers, and one more copy them out.

    Raises:
        OSError: A file cannot be opened or read to its end.
    """
    with ExitStack() as stack:
        descriptors = opened(files, stack)
        free: queue.SimpleQueue[_Buffer] = queue.SimpleQueue()
        full: queue.SimpleQueue[tuple[_Buffer, Piece] | None] = queue.SimpleQueue()
        for _ in range(2 * threads):
            free.put(_buffer(pieces))

        def read(thread: int, piece: Piece) -> None:
            buffer = free.get()
            read_piece(descriptors, piece, buffer.address)
            full.put((buffer, piece))

        def copy() -> None:
            while (item := full.get()) is not None:
                buffer, piece = item
                ctypes.memmove(piece.address, buffer.address, piece.nbytes)
                free.put(buffer)

        with ThreadPoolExecutor(1) as copier:
            copied = copier.submit(copy)
            try:
                spread(read, pieces, threads)
            finally:
                full.put(None)
            copied.result()


class _Buffer:
    """Hold touched, page-aligned memory and its address."""

    def __init__(self, nbytes: int) -> None:
        self._memory = mmap.mmap(-1, max(nbytes, 1))
        self._memory.write(bytes(len(self._memory)))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))


def _buffer(pieces: Sequence[Piece]) -> _Buffer:
    return _Buffer(max((piece.nbytes for piece in pieces), default=1))
