"""Move a checkpoint's bytes from its files into memory as fast as plain system calls can.

Floor 6; stdlib only. Two ways, since either can be the faster: positioned reads, and copying out of a mapping.
Threads take pieces from one list; both calls release the GIL.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = ["Buffer", "Piece", "copy_from_mappings", "cut_pieces", "opened", "read_piece", "read_pieces", "spread"]

_PIECE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Name a range of a file and the host address its bytes go to."""

    file: int
    offset: int
    nbytes: int
    address: int


class Buffer:
    """Hold memory of this process, touched before it is used, in huge pages where the system gives them.

    Attributes:
        memory: The memory, page-aligned.
        address: Where it begins.

    Args:
        nbytes: Its length.
        huge: Whether to ask for huge pages; else for none.
    """

    def __init__(self, nbytes: int, *, huge: bool = True) -> None:
        self.memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self.memory.write(bytes(nbytes))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


def cut_pieces(ranges: Iterable[tuple[int, int, int, int]], most: int = _PIECE_BYTES) -> list[Piece]:
    """Cut (file, start, end, address) ranges into pieces of at most 2 MiB, or as many bytes as are given."""
    return [
        Piece(file, offset, min(most, end - offset), address + offset - start)
        for file, start, end, address in ranges
        for offset in range(start, end, most)
    ]


def opened(files: Sequence[Path], stack: ExitStack) -> list[int]:
    """Open the files for as long as the stack lasts, and return their descriptors.

    Raises:
        OSError: One cannot be opened.
    """
    return [stack.enter_context(path.open("rb", buffering=0)).fileno() for path in files]


def read_piece(descriptors: Sequence[int], piece: Piece, address: int) -> None:
    """Read a piece to an address.

    Raises:
        OSError: It cannot be read to its end.
    """
    target = (ctypes.c_char * piece.nbytes).from_address(address)
    count = os.preadv(descriptors[piece.file], [target], piece.offset)
    if count != piece.nbytes:
        raise OSError(f"got {count} of {piece.nbytes} bytes at {piece.offset} of file {piece.file}")


def read_pieces(files: Sequence[Path], pieces: Sequence[Piece], threads: int) -> None:
    """Fill the pieces by `preadv`, `threads` at a time.

    Raises:
        OSError: A file cannot be opened or read to its end.
    """
    with ExitStack() as stack:
        descriptors = opened(files, stack)
        spread(lambda _, piece: read_piece(descriptors, piece, piece.address), pieces, threads)


def copy_from_mappings(files: Sequence[Path], pieces: Sequence[Piece], threads: int) -> None:
    """Map the files and fill the pieces by `memmove`, `threads` at a time.

    Raises:
        OSError: A file cannot be mapped.
    """
    with ExitStack() as stack:
        addresses: list[int] = []
        for path in files:
            file = stack.enter_context(path.open("rb"))
            mapping = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            mapping.madvise(mmap.MADV_SEQUENTIAL)
            window = (ctypes.c_char * 1).from_buffer(mapping)
            addresses.append(ctypes.addressof(window))
            del window  # a view left over would keep the mapping from closing

        def copy(thread: int, piece: Piece) -> None:
            ctypes.memmove(piece.address, addresses[piece.file] + piece.offset, piece.nbytes)

        spread(copy, pieces, threads)


def spread(work: Callable[[int, Piece], None], pieces: Sequence[Piece], threads: int) -> None:
    """Give each thread every n-th piece, with the thread's number: neighbours are worked on at about the same time."""

    def take(first: int) -> None:
        for piece in pieces[first::threads]:
            work(first, piece)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(take, first) for first in range(threads)]:
            done.result()
