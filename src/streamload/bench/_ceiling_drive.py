"""Read files around the page cache and keep nothing: the drive's own rate.

Floor 6; stdlib only. Buffers are on pages' boundaries, as direct reads want them.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ._ceiling import cut_pieces, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ._ceiling import Buffer, Piece

__all__ = ["read_around_the_cache", "reads_directly"]


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


def read_around_the_cache(
    files: Sequence[Path], buffers: Sequence[Buffer], lengths: Sequence[int] | None = None
) -> None:
    """Read the files by `O_DIRECT`, a buffer's length a call, in one thread for each buffer.

    Args:
        files: What is read.
        buffers: Where to; again and again.
        lengths: Bytes to read of each file: all, or a multiple of a buffer's length. None: all of each.

    Raises:
        OSError: A file cannot be opened or read.
    """
    with ExitStack() as stack:
        descriptors = []
        for file in files:
            descriptors.append(os.open(file, os.O_RDONLY | os.O_DIRECT))
            stack.callback(os.close, descriptors[-1])
        ends = [file.stat().st_size for file in files] if lengths is None else lengths
        pieces = cut_pieces(((number, 0, end, 0) for number, end in enumerate(ends)), len(buffers[0].memory))

        def read(thread: int, piece: Piece) -> None:
            count = os.preadv(descriptors[piece.file], [buffers[thread].memory], piece.offset)
            if count != piece.nbytes:
                raise OSError(f"{files[piece.file]}: got {count} of {piece.nbytes} bytes at {piece.offset}")

        spread(read, pieces, len(buffers))
