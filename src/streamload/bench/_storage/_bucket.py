"""The ways to read an object of a store: by the number of connections, and its first byte.

Part of `bench._storage`. Others' clients are those of `bench._source`, here in this process and over one object.
"""

from __future__ import annotations

import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ... import _native
from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine
from ..._plan import Copy, make_plan
from ..._sources import HttpSource
from ...options import StreamOptions
from .._ceiling import Buffer
from .._figures import Way
from .._result import BenchError
from .._rounds import CannotRun, Contestant, Outcome
from .._source._clients import CEILING, get_ready
from .._source._clients._course import Course, in_threads
from ._judge import BufferJudge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..._sources import Source
    from .._source._clients._course import Moved, Range

__all__ = ["REQUEST_BYTES", "BucketCourse", "bucket_ways", "opened_bucket"]

REQUEST_BYTES: Final = 4 << 20
"""Length of a request: streamload's chunk."""

_CONNECTIONS: Final = (1, 4, 16)
_PEERS: Final = ("obstore", "boto3", "awscrt", "s3fs")
_FIRST_BYTES: Final = 8  # requests, one after the other, of which one run takes the median
_SECONDS: Final = 60.0  # after which urllib gives up


@dataclass(frozen=True, slots=True)
class BucketCourse:
    """Hold what is read and where to.

    Attributes:
        url: The checkpoint.
        storage_options: How its store is reached.
        source: Its longest object.
        nbytes: Bytes that are read of it, from its start.
        target: Where to.
        judge: Knows what is to be there then.
    """

    url: str
    storage_options: Mapping[str, object]
    source: Source
    nbytes: int
    target: Buffer
    judge: BufferJudge

    def signed(self) -> str:
        """Return what is asked for, signature and all; nothing where the source speaks no HTTP."""
        return self.source.request()[0] if isinstance(self.source, HttpSource) else ""

    def for_client(self, connections: int) -> Course:
        """Return the same as the clients of `bench._source` take it."""
        place = urlsplit(self.source.url)
        return Course(
            url=self.url,
            storage_options=self.storage_options,
            keys=((place.netloc, place.path.lstrip("/")),),
            signed=(self.signed(),),
            nbytes=(self.nbytes,),
            range_bytes=REQUEST_BYTES,
            connections=connections,
            scratch="",
            targets=[memoryview(self.target.memory)[: self.nbytes]],
        )


@contextmanager
def opened_bucket(
    url: str, storage_options: Mapping[str, object], affordable: Callable[[float], int]
) -> Iterator[BucketCourse]:
    """Open a checkpoint's longest object for as long as the block lasts, and read what is read of it once.

    Args:
        url: The checkpoint.
        storage_options: How its store is reached, as fsspec takes it.
        affordable: Returns how many bytes may be read at a rate in bytes a second.

    Raises:
        BenchError: The object holds nothing, or ends early.
        SourceError, FileNotFoundError, PermissionError, FormatError: As opening the checkpoint does.
    """
    with open_checkpoint(url, storage_options=dict(storage_options)) as checkpoint:
        source = max((shard.source for shard in checkpoint.shards), key=lambda each: each.nbytes)
        with memoryview(bytearray(min(REQUEST_BYTES, source.nbytes))) as first:
            began = time.perf_counter()
            source.read_into(0, first)
            rate = len(first) / (time.perf_counter() - began)
        nbytes = min(affordable(rate), source.nbytes)
        if not nbytes:
            raise BenchError(f"{url}: holds nothing to read")
        target = Buffer(nbytes)
        with memoryview(target.memory) as view, view[:nbytes] as whole:
            if source.read_into(0, whole) != nbytes:
                raise BenchError(f"{source.url}: ended before its {source.nbytes} bytes")
            expected = zlib.crc32(whole)
        yield BucketCourse(url, storage_options, source, nbytes, target, BufferJudge(target, nbytes, expected))


def bucket_ways(course: BucketCourse) -> Iterator[Way]:
    """Yield the ways to read the bytes by so many connections, then those to a first byte."""
    for count in _CONNECTIONS:
        yield _way(course, "raw sockets", "ceiling", count, partial(_client_ready, course, CEILING, count), kept=False)
    for count in (*_CONNECTIONS, 0):
        yield _way(course, "streamload", "streamload", count, partial(_ours_ready, course, count))
    for count in _CONNECTIONS:
        yield _way(course, "urllib in threads", "peer", count, partial(_urllib_ready, course, count))
    for name in _PEERS:
        for count in _CONNECTIONS:
            yield _way(course, name, "peer", count, partial(_client_ready, course, name, count))
    for name, role, ready in (
        ("raw socket and connecting", "ceiling", partial(_raw_byte, course)),
        ("read_into", "streamload", partial(_our_byte, course)),
        ("urllib and connecting", "peer", partial(_urllib_byte, course)),
    ):
        yield Way(Contestant(name, role, "first byte", ready), 1, 1, 1)


def _way(
    course: BucketCourse,
    name: str,
    role: str,
    connections: int,
    ready: Callable[[], Callable[[], Outcome]],
    *,
    kept: bool = True,
) -> Way:
    said = f"{connections} connections" if connections else "as many as it takes"
    contestant = Contestant(f"{name}, {said}", role, "bucket", ready, course.judge if kept else None)
    return Way(contestant, course.nbytes, REQUEST_BYTES, connections)


def _client_ready(course: BucketCourse, name: str, connections: int) -> Callable[[], Outcome]:
    move = get_ready(name, course.for_client(connections))
    return lambda: _moved(move)


def _moved(move: Callable[[], Moved]) -> Outcome:
    move()
    return Outcome()


def _ours_ready(course: BucketCourse, connections: int) -> Callable[[], Outcome]:
    options = StreamOptions(chunk_bytes=REQUEST_BYTES, connections=connections or None)
    engine = CopyEngine(_native.HostDevice(), options)
    plan = make_plan([[Copy(0, 0, course.nbytes, course.target.address)]], chunk_bytes=REQUEST_BYTES)

    def run() -> Outcome:
        with engine.submit(plan, [course.source], keep_alive=[course.target]) as ticket:
            ticket.wait()
            return Outcome(stats=ticket.stats())

    return run


def _urllib_ready(course: BucketCourse, connections: int) -> Callable[[], Outcome]:
    _http(course)
    client = course.for_client(connections)

    def fetch(one: Range) -> None:
        with urlopen(_request(course, one.start, len(one.target)), timeout=_SECONDS) as answer:
            at = 0
            while at < len(one.target):
                count = answer.readinto(one.target[at:])
                if not count:
                    raise OSError(f"got {at} of {len(one.target)} bytes at {one.start}")
                at += count

    return lambda: _moved(lambda: in_threads(client, lambda: fetch))


def _http(course: BucketCourse) -> HttpSource:
    """Return the source if it is asked for over HTTP.

    Raises:
        CannotRun: It is not.
    """
    if not isinstance(course.source, HttpSource):
        raise CannotRun("the store is not asked over HTTP")
    return course.source


def _request(course: BucketCourse, start: int, nbytes: int) -> Request:
    url, lines, _ = _http(course).request()
    headers = dict(line.split(": ", 1) for line in lines)
    return Request(url, headers={**headers, "Range": f"bytes={start}-{start + nbytes - 1}"})


def _raw_byte(course: BucketCourse) -> Callable[[], Outcome]:
    _http(course)
    address = urlsplit(course.signed())
    if address.scheme != "http" or address.hostname is None:
        raise CannotRun("raw sockets speak plain HTTP only")
    host, port = address.hostname, address.port or 80
    asked = f"{address.path}?{address.query}" if address.query else address.path

    def ask() -> None:
        _native.measure_http(host, port, asked, [(course.nbytes // 2, 1)], 1)

    return lambda: _first_byte(ask)


def _our_byte(course: BucketCourse) -> Callable[[], Outcome]:
    memory = memoryview(bytearray(1))
    return lambda: _first_byte(lambda: course.source.read_into(course.nbytes // 2, memory))


def _urllib_byte(course: BucketCourse) -> Callable[[], Outcome]:
    _http(course)

    def ask() -> None:
        with urlopen(_request(course, course.nbytes // 2, 1), timeout=_SECONDS) as answer:
            answer.read()

    return lambda: _first_byte(ask)


def _first_byte(ask: Callable[[], object]) -> Outcome:
    """Ask for a byte several times, one after the other; the median counts."""
    seconds = []
    for _ in range(_FIRST_BYTES):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return Outcome(seconds=median(seconds))
