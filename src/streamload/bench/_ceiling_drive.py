"""Read files around the page cache and keep nothing: the drive's own rate.

Floor 6; stdlib only.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ._ceiling import Piece, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["read_around_the_cache", "reads_directly"]

_READ_BYTES = 8 << 20


def reads_directly(files: Sequence[Path]) -> bool:
    """Say whether the files can be opened for direct reads where they lie."""
    if not hasattr(os, "O_DIRECT"):
        return False
    for file in files:
        try:
            os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            if error.errno == errno.EINVAL:  # open(2): the file system does not support it
                return False
            raise
    return True


def read_around_the_cache(files: Sequence[Path], threads: int) -> None:
    """Read every byte of the files by `O_DIRECT`, 8 MiB a call, into one buffer of each thread.

    Raises:
        OSError: A file cannot be opened or read.
    """
    with ExitStack() as stack:
        descriptors = []
        for file in files:
            descriptors.append(os.open(file, os.O_RDONLY | os.O_DIRECT))
            stack.callback(os.close, descriptors[-1])
        buffers = []
        for _ in range(threads):
            buffers.append(stack.enter_context(mmap.mmap(-1, _READ_BYTES)))  # on a page's boundary
            buffers[-1].write(bytes(_READ_BYTES))
        sizes = [file.stat().st_size for file in files]
        pieces = [
            Piece(number, offset, min(_READ_BYTES, size - offset), 0)
            for number, size in enumerate(sizes)
            for offset in range(0, size, _READ_BYTES)
        ]

        def read(thread: int, piece: Piece) -> None:
            count = os.preadv(descriptors[piece.file], [buffers[thread]], piece.offset)
            if count != piece.nbytes:
                raise OSError(f"{files[piece.file]}: got {count} of {piece.nbytes} bytes at {piece.offset}")

        spread(read, pieces, threads)
