"""The ways to read files: around the page cache and through it, by depth and size.

Part of `bench._storage`. What is plain system calls is a ceiling; `readinto` of one thread is what a script does.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from ... import _native
from ..._engine import CopyEngine, ReadPool
from ..._machine import cached_fraction, drop_from_cache, usable_cpus
from ..._plan import Copy, make_plan
from ..._sources import FileSource
from ..._units import say_bytes
from ...options import StreamOptions
from .._ceiling import Buffer, Piece, copy_from_mappings, cut_pieces, read_pieces
from .._ceiling_drive import read_around_the_cache, reads_directly
from .._figures import Way
from .._result import BenchError
from .._rounds import CannotRun, Contestant, Outcome
from ._judge import BufferJudge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["GRAIN_BYTES", "DriveCourse", "cold_ways", "files_below", "open_drive", "probe", "warm_ways"]

GRAIN_BYTES: Final = 16 << 20
"""What the bytes read of a file that is not read whole are a multiple of; no request is longer."""

_DIRECT: Final = (
    (1, 128 << 10),
    (16, 128 << 10),
    (1, 1 << 20),
    (4, 1 << 20),
    (16, 1 << 20),
    (4, 8 << 20),
    (16, 8 << 20),
)
_CHUNKS: Final = (1 << 20, 4 << 20, 16 << 20)
_PROBE: Final = (4, 8 << 20)
_PLAIN_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class DriveCourse:
    """Hold what is read and where to.

    Attributes:
        files: The files.
        lengths: Bytes that are read of each, from its start.
        target: Where everybody but the direct ceilings reads to.
        judge: Knows what is to be there then.
    """

    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    target: Buffer
    judge: BufferJudge

    @property
    def nbytes(self) -> int:
        """Bytes that one run reads."""
        return sum(self.lengths)

    def pieces(self) -> list[Piece]:
        """Cut the bytes for plain reads into the target."""
        return cut_pieces(self.ranges(), _PLAIN_BYTES)

    def ranges(self) -> list[tuple[int, int, int, int]]:
        """Return number, start, end and address in the target of what is read of each file."""
        found, address = [], self.target.address
        for number, length in enumerate(self.lengths):
            found.append((number, 0, length, address))
            address += length
        return found

    def drop_from_cache(self) -> None:
        """Ask the kernel to forget the files."""
        for file in self.files:
            drop_from_cache(file)

    def cached(self) -> float | None:
        """Return the part of what is read that the page cache holds; None where that is unknown."""
        parts = [cached_fraction(file, length) for file, length in zip(self.files, self.lengths, strict=True)]
        known = [part * length for part, length in zip(parts, self.lengths, strict=True) if part is not None]
        return sum(known) / self.nbytes if len(known) == len(parts) else None


def files_below(path: Path) -> tuple[Path, ...]:
    """Return a file, or a directory's: the safetensors files, or all if it has none.

    Raises:
        BenchError: There is no file in it.
        FileNotFoundError: There is no such path.
    """
    if not path.is_dir():
        path.stat()
        return (path,)
    found = sorted(file for file in path.iterdir() if file.is_file() and file.stat().st_size)
    weights = [file for file in found if file.suffix == ".safetensors"]
    if not found:
        raise BenchError(f"{path}: there is no file in it to read")
    return tuple(weights or found)


def probe(files: Sequence[Path]) -> float:
    """Read up to 64 MiB of the first file cold; return the rate in bytes a second."""
    file, (threads, size) = files[0], _PROBE
    nbytes = file.stat().st_size
    nbytes = nbytes if nbytes < 4 * GRAIN_BYTES else 4 * GRAIN_BYTES
    drop_from_cache(file)
    buffers = [Buffer(size) for _ in range(threads)]
    began = time.perf_counter()
    if reads_directly([file]):
        read_around_the_cache([file], buffers, [nbytes])
    else:
        with file.open("rb", buffering=0) as opened:
            for _ in range(0, nbytes, size):
                opened.readinto(buffers[0].memory)
    return nbytes / (time.perf_counter() - began)


def open_drive(files: Sequence[Path], most: int) -> DriveCourse:
    """Choose what is read of the files, at most so many bytes of them, and read it once to know it.

    Raises:
        BenchError: The files hold nothing.
        OSError: One cannot be read.
    """
    chosen: list[Path] = []
    lengths: list[int] = []
    for file in files:
        size, left = file.stat().st_size, most - sum(lengths)
        take = size if size <= left else left - left % GRAIN_BYTES
        if take:
            chosen.append(file)
            lengths.append(take)
    if not chosen:
        raise BenchError(f"{files[0]}: holds nothing to read")
    expected = 0
    for file, length in zip(chosen, lengths, strict=True):
        with file.open("rb") as opened:
            for at in range(0, length, GRAIN_BYTES):
                expected = zlib.crc32(opened.read(min(GRAIN_BYTES, length - at)), expected)
    target = Buffer(sum(lengths))
    return DriveCourse(tuple(chosen), tuple(lengths), target, BufferJudge(target, sum(lengths), expected))


def cold_ways(course: DriveCourse) -> Iterator[Way]:
    """Yield the ways to read what the page cache does not hold."""
    for threads, size in _DIRECT:
        name = f"O_DIRECT preadv, {threads} of {say_bytes(size)}"
        ready = partial(_direct_ready, course, threads, size)
        yield Way(Contestant(name, "ceiling", "direct", ready), course.nbytes, size, threads)
    for size in _CHUNKS:
        yield _ours_by_chunks(course, "io_uring", "direct", StreamOptions(direct_io=True, chunk_bytes=size))
    yield _ours_as_it_chooses(course, "direct")
    yield from _through_the_cache(course, "buffered", StreamOptions(direct_io=False))


def warm_ways(course: DriveCourse) -> Iterator[Way]:
    """Yield the ways to read what the page cache holds."""
    yield from _through_the_cache(course, "cached", StreamOptions())


def _through_the_cache(course: DriveCourse, target: str, options: StreamOptions) -> Iterator[Way]:
    threads, pieces = usable_cpus(), course.pieces()
    plain: dict[str, Callable[[], object]] = {
        "preadv": partial(read_pieces, course.files, pieces, threads),
        "mapped copy": partial(copy_from_mappings, course.files, pieces, threads),
    }
    for name, move in plain.items():
        contestant = Contestant(f"{name}, {target}", "ceiling", target, partial(_moves, move), course.judge)
        yield Way(contestant, course.nbytes, _PLAIN_BYTES, threads)
    if options.direct_io is False:
        yield _ours_by_chunks(course, "buffered", target, options)
    else:
        yield _ours_as_it_chooses(course, target)
    alone = partial(_moves, partial(_read_alone, course))
    yield Way(Contestant(f"readinto, {target}", "peer", target, alone, course.judge), course.nbytes, _PLAIN_BYTES, 1)


def _moves(move: Callable[[], object]) -> Callable[[], Outcome]:
    def run() -> Outcome:
        move()
        return Outcome()

    return run


def _direct_ready(course: DriveCourse, threads: int, size: int) -> Callable[[], Outcome]:
    if not reads_directly(course.files):
        raise CannotRun("the file system has no direct reads")
    buffers = [Buffer(size) for _ in range(threads)]
    return _moves(partial(read_around_the_cache, course.files, buffers, course.lengths))


def _read_alone(course: DriveCourse) -> None:
    """Read file by file in one thread, without a buffer of Python's."""
    with memoryview(course.target.memory) as view:
        at = 0
        for file, length in zip(course.files, course.lengths, strict=True):
            with file.open("rb", buffering=0) as opened:
                end = at + length
                while at < end:
                    with view[at : min(at + _PLAIN_BYTES, end)] as part:
                        count = opened.readinto(part)
                    if not count:
                        raise OSError(f"{file}: ended before its {length} bytes")
                    at += count


def _ours_by_chunks(course: DriveCourse, name: str, target: str, options: StreamOptions) -> Way:
    """Read by chunks, whatever lies beside them: each in a group of its own, since reads of one group are joined."""
    chunk = options.chunk_bytes
    groups = [
        [Copy(file, at, min(at + chunk, end), address + at - start)]
        for file, start, end, address in course.ranges()
        for at in range(start, end, chunk)
    ]
    return _ours(course, f"{name}, {target}, chunks of {say_bytes(chunk)}", target, options, groups, chunk)


def _ours_as_it_chooses(course: DriveCourse, target: str) -> Way:
    options = StreamOptions()
    longest = ReadPool(options).native.longest_in_place(course.nbytes)
    groups = [[Copy(*where) for where in course.ranges()]]
    return _ours(course, f"as it chooses, {target}, up to {say_bytes(longest)}", target, options, groups, longest)


def _ours(
    course: DriveCourse, title: str, target: str, options: StreamOptions, groups: list[list[Copy]], request: int
) -> Way:
    def ready() -> Callable[[], Outcome]:
        if options.direct_io and not reads_directly(course.files):
            raise CannotRun("the file system has no direct reads")
        engine = CopyEngine(_native.HostDevice(), options)
        return partial(_load, course, engine, groups)

    return Way(Contestant(title, "streamload", target, ready, course.judge), course.nbytes, request, 0)


def _load(course: DriveCourse, engine: CopyEngine, groups: list[list[Copy]]) -> Outcome:
    """Let the engine read everything into the target; it chooses how many reads are in flight."""
    sources = [FileSource(file) for file in course.files]
    try:
        plan = make_plan(groups, chunk_bytes=engine.options.chunk_bytes)
        with engine.submit(plan, sources, keep_alive=[course.target]) as ticket:
            ticket.wait()
            return Outcome(stats=ticket.stats())
    finally:
        for source in sources:
            source.close()
