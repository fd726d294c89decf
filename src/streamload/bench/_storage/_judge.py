"""The judge of bytes that were read into a buffer.

Part of `bench._storage`; stdlib only.
"""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._ceiling import Buffer
    from .._rounds import Outcome

__all__ = ["BufferJudge"]


@dataclass(frozen=True, slots=True)
class BufferJudge:
    """Hold a buffer against the CRC-32 of what is to be read into it.

    Attributes:
        buffer: Where everybody reads to.
        nbytes: How many of its bytes are read.
        expected: The CRC-32 of these.
    """

    buffer: Buffer
    nbytes: int
    expected: int

    def scramble(self) -> None:
        """Overwrite the buffer, so that bytes left by one contestant cannot pass for another's."""
        ctypes.memset(self.buffer.address, 0xA5, self.nbytes)

    def find_wrong(self, outcome: Outcome) -> str:
        """Say that the buffer holds something else, or nothing."""
        with memoryview(self.buffer.memory) as view, view[: self.nbytes] as read:
            return "" if zlib.crc32(read) == self.expected else "the bytes came out wrong"
