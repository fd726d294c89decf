"""Read a checkpoint's bytes into small buffers that are used again and again, and copy them out.

Floor 6; stdlib only. What a pipeline through staging memory can reach when written by hand, in two forms: each
thread reads and copies out for itself, or some read and one copies. `preadv` and `memmove` release the GIL.
"""

from __future__ import annotations

import ctypes
import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ._ceiling import opened, read_piece, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ._ceiling import Buffer, Piece

__all__ = ["copy_by_another", "copy_by_each"]


def copy_by_each(files: Sequence[Path], pieces: Sequence[Piece], buffers: Sequence[Buffer]) -> None:
    """Let one thread for each buffer read pieces into it and copy them out.

    Raises:
        OSError: A file cannot be opened or read to its end.
    """
    with ExitStack() as stack:
        descriptors = opened(files, stack)

        def move(thread: int, piece: Piece) -> None:
            address = buffers[thread].address
            read_piece(descriptors, piece, address)
            ctypes.memmove(piece.address, address, piece.nbytes)

        spread(move, pieces, len(buffers))


def copy_by_another(files: Sequence[Path], pieces: Sequence[Piece], buffers: Sequence[Buffer]) -> None:
    """Let one thread for every two buffers read pieces into them, and one more thread copy them out.

    Raises:
        OSError: A file cannot be opened or read to its end.
    """
    with ExitStack() as stack:
        descriptors = opened(files, stack)
        free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        full: queue.SimpleQueue[tuple[Buffer, Piece] | None] = queue.SimpleQueue()
        for buffer in buffers:
            free.put(buffer)

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
                spread(read, pieces, max(len(buffers) // 2, 1))
            finally:
                full.put(None)
            copied.result()
