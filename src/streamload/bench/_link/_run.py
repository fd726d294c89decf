"""Run the link benchmark: every way to copy and to pin, by turns.

Part of `bench._link`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ... import _native
from ..._engine import open_device
from ..._machine import machine_facts, memory_headroom_bytes
from .._ceiling import Buffer
from .._result import BenchError
from .._rounds import Conditions, run_rounds
from ._result import LinkBench
from ._ways import LinkCourse, copy_ways, pin_ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._progress import BenchProgress
    from .._settings import LinkSettings

__all__ = ["run"]

_MEMORY_PART = 16  # of what may be taken: source, target, torch's pair of them and memory to pin, and room to spare
_LEAST_BYTES = 16 << 20


def run(settings: LinkSettings, progress: BenchProgress) -> LinkBench:
    """Do what `run_link_bench` says."""
    try:
        device = open_device(settings.device)
    except ValueError as error:
        raise BenchError(str(error)) from error
    nbytes = _affordable(settings.nbytes)
    sizes = tuple(size for size in settings.sizes if size <= nbytes and nbytes % size == 0)
    with ExitStack() as stack:
        source = Buffer(nbytes)
        device.pin(source.address, nbytes)
        stack.callback(device.unpin, source.address, nbytes)
        target = device.allocate(nbytes)
        stack.callback(device.deallocate, target, nbytes)
        course = LinkCourse(settings.device, device, source, target, sizes)
        ways = [*copy_ways(course), *pin_ways(course, (nbytes // 4, nbytes))]
        with progress.stage("measuring", (settings.repeat + 1) * len(ways), "run") as advance:
            conditions = Conditions(synchronize=_synchronizer(course), progress=advance)
            scores = run_rounds([way.contestant for way in ways], settings.repeat, conditions)
    return LinkBench(
        device=settings.device,
        stand_in=course.on_host,
        rounds=settings.repeat,
        figures=tuple(way.figure(score) for way, score in zip(ways, scores, strict=True)),
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
    )


def _affordable(nbytes: int) -> int:
    """Return the bytes to copy, halved until memory has room for what holds them."""
    headroom = memory_headroom_bytes()
    while headroom is not None and nbytes * _MEMORY_PART > headroom and nbytes > _LEAST_BYTES:
        nbytes //= 2
    return nbytes


def _synchronizer(course: LinkCourse) -> Callable[[], object]:
    if course.on_host:
        return lambda: None
    import torch  # what it has queued is waited for with its own call

    return lambda: torch.cuda.synchronize(course.torch_device)
