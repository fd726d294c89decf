"""Read the first bytes of a source, where its header is; what came when it was opened is not asked for again.

Floor 1, part of `_sources`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ShortReadError

if TYPE_CHECKING:
    from . import Source


def read_head(source: Source, nbytes: int) -> memoryview:
    """Return the first bytes of a source; blocks.

    Raises:
        ShortReadError: The source ended before.
        SourceError: It could not be read.
    """
    head: bytes = getattr(source, "head", b"")
    if len(head) >= nbytes:
        return memoryview(head)[:nbytes]
    data = memoryview(bytearray(nbytes))
    data[: len(head)] = head
    count = len(head) + source.read_into(len(head), data[len(head) :])
    if count != nbytes:
        raise ShortReadError(
            f"{source.url}: the file ended after {count} bytes, and had {source.nbytes} when it was opened",
            url=source.url,
            offset=0,
            nbytes=nbytes,
        )
    return data
