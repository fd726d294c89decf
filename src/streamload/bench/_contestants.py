"""Who takes part in the engine benchmark: ceilings, streamload, and its peers.

Floor 6; needs torch. Each contestant moves the same bytes of the same checkpoint once a call.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from .._checkpoint import open as open_checkpoint
from .._engine import open_device
from .._machine import usable_cpus
from ._ceiling import Buffer, copy_from_mappings, cut_pieces, read_pieces
from ._ceiling_drive import read_around_the_cache, reads_directly
from ._ceiling_ring import copy_by_another, copy_by_each
from ._ours import ours
from ._peers import peers
from ._rounds import CannotRun, Contestant, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from ._course import Course

__all__ = ["ceiling_contestants", "contestants"]

_PROBE_BYTES = 256 << 20
_RING_PIECE_BYTES = 1 << 20  # stays in L3 between its read and its copy
_DRIVE_THREADS = (4, 16)
_DRIVE_READ_BYTES = 8 << 20


def contestants(course: Course, *, cold: bool) -> list[Contestant]:
    """List who takes part on the course's device."""
    return [*ceiling_contestants(course, cold=cold), *ours(course), *peers(course)]


def ceiling_contestants(course: Course, *, cold: bool) -> list[Contestant]:
    """List what streamload is held against: the memory, the link and, for cold files, the drive."""
    found = _host_ceilings(course, cold=cold) if course.on_host else [_link_ceiling(course)]
    return [*found, *(_drive_ceilings(course) if cold else [])]


def _host_ceilings(course: Course, *, cold: bool) -> list[Contestant]:
    """Fill existing memory by plain system calls, with as many threads as there are processors."""
    with open_checkpoint(course.path) as checkpoint:
        ranges = [(t.shard, t.start, t.end, course.existing[t.name].data_ptr()) for t in checkpoint.values()]
    threads = usable_cpus()
    pieces, ring_pieces = cut_pieces(ranges), cut_pieces(ranges, _RING_PIECE_BYTES)

    def ceiling(name: str, target: str, move: Callable[[], object]) -> Contestant:
        return Contestant(name, "ceiling", target, lambda: partial(_moved, move, course.existing))

    each, another = (
        partial(move, course.files, ring_pieces, [Buffer(_RING_PIECE_BYTES) for _ in range(count)])
        for move, count in ((copy_by_each, threads), (copy_by_another, 2 * threads))
    )
    mapped = partial(copy_from_mappings, course.files, pieces, threads)
    return [  # of a cold file a mapping waits for each fault in turn: `bench storage` shows what that costs
        ceiling(f"preadv, {threads} threads", "existing", partial(read_pieces, course.files, pieces, threads)),
        *([] if cold else [ceiling(f"mapped copy, {threads} threads", "existing", mapped)]),
        ceiling(f"pread, memcpy in {threads} threads", "ring", each),
        ceiling(f"pread in {threads} threads, memcpy in 1", "ring", another),
    ]


def _drive_ceilings(course: Course) -> list[Contestant]:
    """Read the files around the page cache, and keep nothing."""

    def get_ready(threads: int) -> Callable[[], Outcome]:
        if not reads_directly(course.files):
            raise CannotRun("the file system has no direct reads")
        buffers = [Buffer(_DRIVE_READ_BYTES) for _ in range(threads)]
        return partial(_moved, partial(read_around_the_cache, course.files, buffers), None)

    return [
        Contestant(f"O_DIRECT, {threads} threads", "ceiling", "drive", partial(get_ready, threads), takes_memory=False)
        for threads in _DRIVE_THREADS
    ]


def _link_ceiling(course: Course) -> Contestant:
    """Copy pinned memory to the device, and scale its time to the checkpoint's bytes."""
    device = open_device(course.torch_device)

    def run() -> Outcome:
        return Outcome(seconds=median(device.measure_link(_PROBE_BYTES, 5)) * course.nbytes / _PROBE_BYTES)

    return Contestant("pinned copy over the link", "ceiling", "existing", lambda: run)


def _moved(move: Callable[[], object], tensors: Mapping[str, torch.Tensor] | None) -> Outcome:
    move()
    return Outcome(tensors)
