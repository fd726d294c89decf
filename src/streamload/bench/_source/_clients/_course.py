"""What every client of the source benchmark works on, and what it leaves.

Part of `bench._source._clients`.
"""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..._rounds import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ...._trace import Trace

__all__ = ["Course", "Moved", "Range", "in_threads", "touched"]


@dataclass(frozen=True, slots=True)
class Range:
    """Name the bytes of one request, and the memory they go to."""

    number: int
    start: int
    target: memoryview


@dataclass(frozen=True, slots=True)
class Moved:
    """Say what a client leaves.

    Attributes:
        objects: The bytes of each object, in order; None where `sums` says them.
        sums: CRC-32 of each object's weights; None where `objects` has them.
        first_layer_seconds: From the start of the clock until a first layer could be used; None: not before the end.
        stats: What streamload's engine says.
        trace: What streamload read and copied when, if that was asked for.
    """

    objects: list[memoryview] | None = None
    sums: Callable[[], list[int]] | None = None
    first_layer_seconds: float | None = None
    stats: Mapping[str, float] | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Hold what a client works on.

    Attributes:
        url: The checkpoint, as streamload opens it.
        storage_options: As fsspec takes them.
        keys: Each object's bucket and key.
        signed: What is asked for, of each object; empty where that is no HTTP.
        nbytes: Length of each object in bytes.
        range_bytes: Length of a request where the client leaves it open.
        connections: Requests in flight, likewise.
        scratch: A directory in memory for those that write files.
        targets: Memory for each object, touched.
        traced: Whether to say what was read and copied when.
    """

    url: str
    storage_options: Mapping[str, object]
    keys: tuple[tuple[str, str], ...]
    signed: tuple[str, ...]
    nbytes: tuple[int, ...]
    range_bytes: int
    connections: int
    scratch: str
    targets: list[memoryview] = field(default_factory=list)
    traced: bool = False

    @property
    def endpoint(self) -> str:
        """The S3 endpoint.

        Raises:
            CannotRun: The URL is none of S3, or the store's address is not given.
        """
        given = self.storage_options.get("endpoint_url")
        if not self.url.startswith("s3://") or not isinstance(given, str):
            raise CannotRun("it is entered for s3:// with an endpoint_url only")
        return given

    @property
    def secrets(self) -> tuple[str, str]:
        """Access key and secret."""
        return str(self.storage_options.get("key", "")), str(self.storage_options.get("secret", ""))

    def ranges(self) -> Iterator[Range]:
        """Cut every object into ranges."""
        for number, nbytes in enumerate(self.nbytes):
            for start in range(0, nbytes, self.range_bytes):
                end = min(nbytes, start + self.range_bytes)
                yield Range(number, start, self.targets[number][start:end])


def touched(nbytes: int) -> memoryview:
    """Return new memory of so many bytes, every page of it written to."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = memoryview(memory)[:nbytes]
    for start in range(0, nbytes, mmap.PAGESIZE):
        view[start] = 1
    return view


def in_threads(course: Course, make: Callable[[], Callable[[Range], object]]) -> Moved:
    """Take every range from one queue by as many threads as requests are to be in flight.

    Args:
        course: What to fetch.
        make: Makes what fetches one range, once in each thread.
    """
    waiting: SimpleQueue[Range | None] = SimpleQueue()
    for each in course.ranges():
        waiting.put(each)
    for _ in range(course.connections):
        waiting.put(None)

    def work() -> None:
        fetch = make()
        while (each := waiting.get()) is not None:
            fetch(each)

    with ThreadPoolExecutor(course.connections) as pool:
        for done in [pool.submit(work) for _ in range(course.connections)]:
            done.result()
    return Moved(course.targets)
