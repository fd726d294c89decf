"""Where bytes live: one narrow interface, and the places that offer it.

Floor 1. A `Source` is a run of bytes with a name and a length that can be read at any offset. `FileSource` is a
local file, `MemorySource` bytes already held, `HttpSource` an object of a store, `FsspecSource` what only fsspec can
read. A `Store` is a place with names. `open_source` and `open_store` pick one by the form of a URL. Read next: `_file`
for what opening a file checks, `_stores` for who signs and lists, `_retry` for what is asked again.
"""

from __future__ import annotations

from typing import Protocol

from ._file import FileSource, FileStamp, local_path
from ._head import read_head
from ._http import HEAD_BYTES, HttpSource
from ._memory import MemorySource
from ._stores import Store, is_root, open_source, open_store
from ._urls import is_remote, join, redact, split

__all__ = [
    "HEAD_BYTES",
    "FileSource",
    "FileStamp",
    "HttpSource",
    "MemorySource",
    "Source",
    "Store",
    "is_remote",
    "is_root",
    "join",
    "local_path",
    "open_source",
    "open_store",
    "read_head",
    "redact",
    "split",
]


class Source(Protocol):
    """Offer bytes at an offset: what every place weights are read from must do.

    Reads may come from several threads at once. After `close`, reading raises `StreamClosedError`.
    """

    @property
    def url(self) -> str:
        """Name of the source, as error messages give it."""
        ...

    @property
    def nbytes(self) -> int:
        """Length of the source in bytes, fixed when it was opened."""
        ...

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Fill `buffer` from byte `offset` on and return how many bytes came.

        Fewer than `len(buffer)` means that the source ended there; nothing else returns early. Blocks.

        Raises:
            ValueError: `offset` is negative.
            SourceError: The read failed.
            StreamClosedError: The source is closed.
        """
        ...

    def close(self) -> None:
        """Release what the source holds. Harmless when repeated."""
        ...
