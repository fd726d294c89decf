"""Load a range of a source through the copy engine, by either of the two ways that remote bytes can take."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from streamload import StreamOptions
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan

if TYPE_CHECKING:
    from streamload._engine import LoadStats
    from streamload._sources import Source

WAYS = ("native", "python")
_WAIT_SECONDS = 60.0  # nothing here may take that long: it would be a hang


class ThroughPython:
    """Hide what a source is, so that the engine can only call its `read_into`, as it does without libcurl."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.url = inner.url
        self.nbytes = inner.nbytes
        self.read_concurrency = getattr(inner, "read_concurrency", 1)
        self.read_into = inner.read_into
        self.close = inner.close

    @property
    def request_counts(self) -> dict[str, int]:
        return getattr(self._inner, "request_counts", {})


def short_options(*, chunk_bytes=256 << 10, stall_seconds=0.4, retry_seconds=8.0) -> StreamOptions:
    """Options of a user who has no patience, for servers that are next door."""
    return StreamOptions(
        chunk_bytes=chunk_bytes,
        staging_bytes=16 * chunk_bytes,
        read_threads=2,
        stall_seconds=stall_seconds,
        retry_seconds=retry_seconds,
    )


def load_range(source: Source, start: int, end: int, options: StreamOptions, *, way: str) -> tuple[bytes, LoadStats]:
    """Load bytes [start, end) in chunks; return them and what the engine says it did.

    Raises:
        TimeoutError: It hung.
        Exception: What the load raised.
    """
    memory = (ctypes.c_ubyte * (end - start))()
    ctypes.memset(memory, 0xEE, len(memory))
    plan = make_plan([[Copy(0, start, end, ctypes.addressof(memory))]], chunk_bytes=options.chunk_bytes)
    seen = source if way == "native" else ThroughPython(source)
    with CopyEngine(HostDevice(), options) as engine, engine.submit(plan, [seen], keep_alive=[memory]) as ticket:
        ticket.wait(_WAIT_SECONDS)
        return bytes(memory), ticket.stats()
