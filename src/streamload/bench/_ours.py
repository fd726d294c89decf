"""Streamload's own contestants: what users call, and nothing else.

Floor 6; needs torch.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from .. import _native
from .._engine import CopyEngine, open_device
from ..torch import fill, iter_tensors, load_file
from ._course import overwrite
from ._rounds import Contestant, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ._course import Course

__all__ = ["REFILL", "fixed_cost_of", "ours"]

REFILL = "fill, memory of iter_tensors"
"""Memory that lies as the file does: where a cold file lands without staging memory, whatever the drive."""


def ours(course: Course) -> list[Contestant]:
    """List streamload's contestants on the course's device."""
    found = [
        Contestant("fill", "streamload", "existing", lambda: lambda: _fill(course, None)),
        Contestant("iter_tensors", "streamload", "new", lambda: lambda: _iter_tensors(course)),
    ]
    if course.on_host:
        found.append(_refill(course))
        found.append(Contestant("fill through the ring", "streamload", "ring", lambda: _staged(course)))
    else:
        found.append(Contestant("load_file", "streamload", "new", lambda: lambda: _load_file(course)))
    return found


def fixed_cost_of(course: Course) -> Contestant:
    """Return a load by a new engine, through its ring, timed from the call to the first bytes on the device.

    Its time covers making the engine, opening the checkpoint, planning, submitting, and the first read and copy.
    """
    return Contestant(
        "fixed cost", "streamload", "ring", lambda: lambda: Outcome(course.existing, seconds=_fixed_cost(course))
    )


def _fixed_cost(course: Course) -> float:
    began = time.perf_counter()
    with _new_engine(course) as engine:
        stats = fill(course.path, course.existing, engine=engine)
        return time.perf_counter() - began - stats.seconds + stats.first_byte_seconds


def _fill(course: Course, engine: CopyEngine | None) -> Outcome:
    stats = fill(course.path, course.existing, engine=engine)
    return Outcome(course.existing, stats)


def _refill(course: Course) -> Contestant:
    """Fill what `iter_tensors` made, once it was written to: other existing memory is, by whoever had its turn before.

    What a virtual machine has left alone for seconds may be dear to touch.
    """
    tensors: dict[str, torch.Tensor] = {}

    def get_ready() -> Callable[[], Outcome]:
        tensors.update(iter_tensors(course.path, course.torch_device))
        return lambda: Outcome(tensors, fill(course.path, tensors))

    written = partial(overwrite, tensors)
    return Contestant(REFILL, "streamload", "existing", get_ready, prepare=written, takes_memory=False)


def _staged(course: Course) -> Callable[[], Outcome]:
    engine = _new_engine(course)
    return lambda: _fill(course, engine)


def _new_engine(course: Course) -> CopyEngine:
    """Make an engine that moves everything through its ring; on the host, over a device that does not fill in place."""
    return CopyEngine(_native.HostDevice(staged=True) if course.on_host else open_device(course.torch_device))


def _iter_tensors(course: Course) -> Outcome:
    arrivals = iter_tensors(course.path, course.torch_device)
    tensors = dict(arrivals)
    stats = getattr(arrivals, "stats", None)
    return Outcome(tensors, stats() if stats is not None else None)


def _load_file(course: Course) -> Outcome:
    return Outcome({k: v for file in course.files for k, v in load_file(file, device=course.torch_device).items()})
