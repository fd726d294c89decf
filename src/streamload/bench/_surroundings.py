"""What surrounds each timed run over a checkpoint: the page cache in a state, and memory that costs all the same.

Floor 6; needs torch.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from .._machine import memory_headroom_bytes
from ._memory import SpareMemory, give_back_memory, map_large_blocks
from ._rounds import Conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ._course import Course
    from ._rounds import Contestant

__all__ = ["Surroundings"]

_COPIES: Final = 2  # a loader takes memory for what it leaves, and what stages as much again
_PART_OF_HEADROOM: Final = 2  # the rest is for the page cache, and for everyone else


class Surroundings:
    """Make runs on a device start alike, each with as much memory free and none to use again; a context manager.

    Args:
        device: "cpu", or as torch names it. Where the host is not the device, no memory is kept for runs.
        nbytes: Of the checkpoint; of the largest where there are several.
    """

    def __init__(self, device: str, nbytes: int) -> None:
        headroom = memory_headroom_bytes()
        wanted = _COPIES * nbytes if device == "cpu" else 0
        self._device = device
        self._froze = False
        affordable = wanted if headroom is None else max(0, headroom) // _PART_OF_HEADROOM
        self._spare = SpareMemory(min(wanted, affordable))

    def __enter__(self) -> Surroundings:
        map_large_blocks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spare.release()
        if self._froze:
            gc.unfreeze()

    def in_state(
        self, everyone: Iterable[Contestant], course: Course, *, cold: bool, cached: list[float | None]
    ) -> list[Contestant]:
        """Give each its bytes' judge, and before each of its runs the files in the page cache, or not, and memory.

        Args:
            everyone: Who moves the course's bytes.
            course: The checkpoint.
            cold: Whether the files are to be out of the page cache.
            cached: The part of the files it held before each run is added here.
        """
        bring = course.drop_from_cache if cold else course.bring_into_cache

        def prepare(one: Contestant) -> None:
            one.prepare()
            bring()
            cached.append(course.cached())
            # A cold file's pages are new to the page cache, and a peer may stage what it puts into existing memory.
            # For nobody else: what becomes free costs the host work, and whoever runs meanwhile some of its processors.
            if one.takes_memory and (cold or one.target == "new" or one.role == "peer"):
                self._spare.release()

        return [replace(one, judge=course, prepare=partial(prepare, one)) for one in everyone]

    def conditions(self, progress: Callable[[], object]) -> Conditions:
        """Return what surrounds every run.

        Args:
            progress: Called after each run.
        """
        device = self._device
        return Conditions(
            begin=self._begin,
            prepare=give_back_memory,
            synchronize=(lambda: None) if device == "cpu" else lambda: torch.cuda.synchronize(device),
            clear=self._clear,
            progress=progress,
        )

    def _begin(self) -> None:
        """Leave out of later collections what is there to stay: all that was imported is some 0.15 s of each."""
        give_back_memory()  # first: what is garbage now is not to stay
        if gc.get_freeze_count() == 0:  # else somebody does so already, and would find all of it thawed afterwards
            gc.freeze()
            self._froze = True
        self._spare.take()

    def _clear(self) -> None:
        give_back_memory()
        self._spare.take()
