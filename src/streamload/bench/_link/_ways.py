"""The ways to copy to a device and to pin host memory, as contestants.

Part of `bench._link`; torch is imported where a peer needs it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from ..._machine import usable_cpus
from ..._units import say_bytes
from .._ceiling import Buffer, Piece, cut_pieces, spread
from .._figures import Way
from .._rounds import CannotRun, Contestant, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from ..._native import CudaDevice, HostDevice

__all__ = ["LinkCourse", "copy_ways", "pin_ways"]

_PIECE_BYTES: Final = 1 << 20  # so short that C libraries copy it through the caches


@dataclass(frozen=True, slots=True)
class LinkCourse:
    """Hold what is copied and where to.

    Attributes:
        torch_device: "cpu" or "cuda:N".
        device: The same as the engine opens it.
        source: Host memory, touched.
        target: Address of as much memory of the device.
        sizes: Lengths of a copy in bytes; each divides the source.
    """

    torch_device: str
    device: HostDevice | CudaDevice
    source: Buffer
    target: int
    sizes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are copied in one run."""
        return len(self.source.memory)

    @property
    def on_host(self) -> bool:
        """Whether host memory stands for a device."""
        return self.torch_device == "cpu"


def copy_ways(course: LinkCourse) -> Iterator[Way]:
    """Yield the ways to copy all of the source, ceilings first."""
    yield from _host_ceilings(course) if course.on_host else _link_ceiling(course)
    for size in course.sizes:
        count = course.nbytes // size
        yield _way("copies queued", "streamload", "copies", course.nbytes, size, count, partial(_queued, course, size))
        yield _way(
            "one after the other", "streamload", "single", course.nbytes, size, 1, partial(_single, course, size)
        )
    for pinned in (True,) if course.on_host else (True, False):
        name = "torch copy_" if course.on_host else f"torch copy_ {'non-blocking' if pinned else 'of pageable'}"
        for size in course.sizes:
            ready = partial(_torch_copies, course, size, pinned=pinned)
            yield _way(name, "peer", "copies" if pinned else "pageable", course.nbytes, size, 1, ready)


def pin_ways(course: LinkCourse, sizes: tuple[int, ...]) -> Iterator[Way]:
    """Yield the ways to pin memory of some sizes."""
    for size in sizes:
        for huge, pages in ((True, "huge pages"), (False, "small pages")):
            if course.on_host:
                yield _way(f"mlock of {pages}", "ceiling", "pinning", size, size, 1, partial(_locked, size, huge=huge))
            else:
                ready = partial(_registered, course, size, huge=huge)
                yield _way(f"register {pages}", "streamload", "pinning", size, size, 1, ready)
        if not course.on_host:
            yield _way("torch pin_memory", "peer", "pinning", size, size, 1, partial(_torch_pinned, size))


def _way(
    name: str,
    role: str,
    target: str,
    nbytes: int,
    size: int,
    in_flight: int,
    ready: Callable[[], Callable[[], Outcome]],
) -> Way:
    return Way(Contestant(f"{name}, {say_bytes(size)}", role, target, ready), nbytes, size, in_flight)


def _host_ceilings(course: LinkCourse) -> Iterator[Way]:
    """Copy by `memmove` in one thread, as the stand-in does, and in as many as there are processors."""
    cpus = usable_cpus()
    for threads, size in sorted({(1, course.nbytes), (cpus, course.nbytes // cpus), (cpus, _PIECE_BYTES)}):
        pieces = cut_pieces([(0, 0, course.nbytes, course.target)], size)

        def move(pieces: list[Piece] = pieces, threads: int = threads) -> Outcome:
            def copy(thread: int, piece: Piece) -> None:
                ctypes.memmove(piece.address, course.source.address + piece.offset, piece.nbytes)

            spread(copy, pieces, threads)
            return Outcome()

        title = f"memmove in {threads} thread{'s' if threads > 1 else ''}"
        yield _way(title, "ceiling", "copies", course.nbytes, size, threads, partial(_ready, move))


def _ready(run: Callable[[], Outcome]) -> Callable[[], Outcome]:
    """Get nothing ready."""
    return run


def _link_ceiling(course: LinkCourse) -> Iterator[Way]:
    """Copy everything at once, out of pinned memory, timed by the device's own events."""
    yield _way("one pinned copy", "ceiling", "copies", course.nbytes, course.nbytes, 1, lambda: partial(_whole, course))


def _whole(course: LinkCourse) -> Outcome:
    return Outcome(seconds=course.device.measure_link(course.nbytes, 1)[0])


def _single(course: LinkCourse, size: int) -> Callable[[], Outcome]:
    """Copy as many bytes in copies of a size, each begun when the one before is there; always the same ones."""
    return lambda: Outcome(seconds=sum(course.device.measure_link(size, course.nbytes // size)))


def _queued(course: LinkCourse, size: int) -> Callable[[], Outcome]:
    """Copy everything by copies of a size that are queued at once, as the engine's are."""
    blocks = array("Q")
    for offset in range(0, course.nbytes, size):  # six numbers each: CopyBlock of csrc/device/device.hpp
        blocks.extend((course.target + offset, 0, course.source.address + offset, 0, size, 1))
    return lambda: Outcome(seconds=course.device.time_copies(blocks, 1, 1)[0])


def _torch_copies(course: LinkCourse, size: int, *, pinned: bool) -> Callable[[], Outcome]:
    """Copy everything slice by slice with torch; on the host pinned memory is memory, on pages as the others' are."""
    import torch

    if course.on_host:
        source, target = (torch.frombuffer(Buffer(course.nbytes).memory, dtype=torch.uint8) for _ in range(2))
    else:
        source = torch.ones(course.nbytes, dtype=torch.uint8)
        source = source.pin_memory() if pinned else source
        target = torch.zeros(course.nbytes, dtype=torch.uint8, device=course.torch_device)
    pairs = list(zip(source.view(-1, size).unbind(), target.view(-1, size).unbind(), strict=True))
    return partial(_copy_each, pairs, non_blocking=pinned)


def _copy_each(pairs: list[tuple[torch.Tensor, torch.Tensor]], *, non_blocking: bool) -> Outcome:
    for source, target in pairs:
        target.copy_(source, non_blocking=non_blocking)
    return Outcome()


def _registered(course: LinkCourse, size: int, *, huge: bool) -> Callable[[], Outcome]:
    memory = Buffer(size, huge=huge)

    def run() -> Outcome:
        began = time.perf_counter()
        course.device.pin(memory.address, size)
        seconds = time.perf_counter() - began
        course.device.unpin(memory.address, size)
        return Outcome(seconds=seconds)

    return run


def _torch_pinned(size: int) -> Callable[[], Outcome]:
    """Let torch pin: it takes new memory and copies; what it keeps for the next call is given back each time."""
    import torch

    memory = torch.ones(size, dtype=torch.uint8)

    def run() -> Outcome:
        empty = getattr(torch._C, "_host_emptyCache", None)
        if empty is None:
            raise CannotRun(f"torch {torch.__version__} cannot be made to give pinned memory back")
        empty()
        began = time.perf_counter()
        pinned = memory.pin_memory()
        seconds = time.perf_counter() - began
        del pinned
        return Outcome(seconds=seconds)

    return run


def _locked(size: int, *, huge: bool) -> Callable[[], Outcome]:
    memory = Buffer(size, huge=huge)
    system = ctypes.CDLL(None, use_errno=True)

    def run() -> Outcome:
        began = time.perf_counter()
        refused = system.mlock(ctypes.c_void_p(memory.address), ctypes.c_size_t(size))
        seconds = time.perf_counter() - began
        if refused:
            code = ctypes.get_errno()
            hint = "; ulimit -l allows no more" if code in (errno.ENOMEM, errno.EPERM) else ""
            raise CannotRun(f"mlock: {os.strerror(code)}{hint}")
        system.munlock(ctypes.c_void_p(memory.address), ctypes.c_size_t(size))
        return Outcome(seconds=seconds)

    return run
