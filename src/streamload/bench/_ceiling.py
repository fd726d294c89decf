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

__all__ = ["Piece", "copy_from_mappings", "cut_pieces", "read_pieces"]

_PIECE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Name a range of a file and the host address its bytes go to."""

    file: int
    offset: int
    nbytes: int
    address: int


def cut_pieces(ranges: Iterable[tuple[int, int, int, int]]) -> list[Piece]:
    """Cut (file, start, end, address) ranges into pieces of at most 2 MiB."""
    return [
        Piece(file, offset, min(_PIECE_BYTES, end - offset), address + offset - start)
        for file, start, end, address in ranges
        for offset in range(start, end, _PIECE_BYTES)
    ]


def read_pieces(files: Sequence[Path], pieces: Sequence[Piece], threads: int) -> None:
    """Fill the pieces by `preadv`, `threads` at a time.

    Raises:
        OSError: A file cannot be opened or read to its end.
    """
    with ExitStack() as stack:
        descriptors = [stack.enter_context(path.open("rb", buffering=0)).fileno() for path in files]

        def read(piece: Piece) -> None:
            target = (ctypes.c_char * piece.nbytes).from_address(piece.address)
            count = os.preadv(descriptors[piece.file], [target], piece.offset)
            if count != piece.nbytes:
                raise OSError(f"{files[piece.file]}: got {count} of {piece.nbytes} bytes at {piece.offset}")

        _spread(read, pieces, threads)


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

        def copy(piece: Piece) -> None:
            ctypes.memmove(piece.address, addresses[piece.file] + piece.offset, piece.nbytes)

        _spread(copy, pieces, threads)


def _spread(work: Callable[[Piece], None], pieces: Sequence[Piece], threads: int) -> None:
    """Give each thread every n-th piece: neighbours are worked on at about the same time."""

    def take(first: int) -> None:
        for piece in pieces[first::threads]:
            work(piece)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(take, first) for first in range(threads)]:
            done.result()
