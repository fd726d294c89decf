"""Fetch whole objects into their tiers, for those who map files rather than read them.

Floor 3, part of `_engine`. The bytes pass through staging memory only; csrc/io/tiered_source.hpp puts them where they
stay.
"""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from .._checksums import UNKNOWN, plan_sums
from .._plan import make_reading_plan
from .._sources import FileSource
from .._sources._tiers import TieredSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._sources import Source
    from . import CopyEngine


def fetch_whole(engine: CopyEngine, sources: Sequence[Source]) -> list[FileSource] | None:
    """Return sources as local files, fetching what is missing; blocks. What other processes fetch is waited for.

    Args:
        engine: What fetches.
        sources: Local files, which stay what they are, and objects whose first tier is memory.

    Returns:
        The files, those that were fetched the caller's to close; None where one cannot be had.

    Raises:
        ChangedError, FileNotFoundError, PermissionError, SourceError: An object could not be fetched.
        StreamClosedError: A source or the engine is closed.
    """
    if not all(isinstance(source, FileSource) or _is_in_memory(source) for source in sources):
        return None
    remote = [source for source in sources if isinstance(source, TieredSource)]
    ranges = [
        (number, start, end)
        for number, source in enumerate(remote)
        for start, end in source.cache.missing(0, source.nbytes)
    ]
    if ranges:
        plan = make_reading_plan(ranges, chunk_bytes=engine.options.chunk_bytes)
        sums, _ = plan_sums(plan, ranges)  # a read must be for something, and this costs least
        plan = replace(plan, sums=sums, expected=array("Q", [UNKNOWN]) * len(ranges))
        with engine.submit(plan, remote) as ticket:
            ticket.wait()
    with ExitStack() as opened:
        files: list[FileSource] = []
        for source in sources:
            file = source if isinstance(source, FileSource) else _published(source)
            if file is None:
                return None
            if file is not source:
                opened.callback(file.close)
            files.append(file)
        opened.pop_all()
    return files


def _is_in_memory(source: Source) -> bool:
    return isinstance(source, TieredSource) and source.in_memory


def _published(source: Source) -> FileSource | None:
    return source.published() if isinstance(source, TieredSource) else None
