"""Where bytes live: one narrow interface, and the places that offer it.

Floor 1. A `Source` is a run of bytes with a name and a length that can be read at any offset. `FileSource` is a
local file, `MemorySource` bytes already held. `open_source` picks one by the form of a URL. Read next:
`_file` for what opening a file checks, `_checkpoint` for who opens them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ._file import FileSource, FileStamp, local_path
from ._memory import MemorySource

if TYPE_CHECKING:
    import os

__all__ = ["FileSource", "FileStamp", "MemorySource", "Source", "local_path", "open_source"]


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


def open_source(url: str | os.PathLike[str]) -> FileSource:
    """Open a local path or `file://` URL for reading.

    Args:
        url: A path, taken as it is (`~` is not expanded), or a `file://` URL, percent-encoded.

    Raises:
        ValueError: The text is empty, holds NUL, or is a URL of another scheme.
        FileNotFoundError: There is no such file.
        PermissionError: This process may not read it.
        IsADirectoryError: It is a directory.
        SourceError: It is not a regular file, or the system could not open it.
    """
    return FileSource(local_path(url), url=str(url))
