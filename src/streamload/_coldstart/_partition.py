"""Cut a process's life into phases that add up to it.

Part of `_coldstart`; pure.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OTHER", "Phase", "partition"]

OTHER: Final = "other"
"""Name of a phase that is not measured and that no known moment ends."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Hold one stretch of a process's life.

    Attributes:
        name: What it was spent on, if it was measured (`imports`), or else the moment that it led to (`first_token`).
        start: When it began, in seconds since the process did.
        end: When it ended, likewise.
        detail: Of what is measured, which one: the name of the module, say.
    """

    name: str
    start: float
    end: float
    detail: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def partition(moments: Mapping[str, float], measured: Sequence[Phase]) -> tuple[Phase, ...]:
    """Return phases without gaps or overlaps, from 0 to the last moment or the end of what is measured.

    Where measured stretches lie within each other, the one that began last has the time. What none covers leads to
    the next moment, and has its name; two of a name in a row are one.

    Args:
        moments: By name, when it was reached.
        measured: Stretches that are known by both ends, in any order.
    """
    marks = sorted((max(at, 0.0), name) for name, at in moments.items())
    times = [at for at, _ in marks]
    edges = sorted({0.0, *times, *(max(edge, 0.0) for phase in measured for edge in (phase.start, phase.end))})
    found: list[Phase] = []
    ahead = sorted(measured, key=lambda phase: -phase.start)
    open_ones: list[tuple[float, float, str, str]] = []  # a heap: the one that began last first, of those the shortest
    for start, end in pairwise(edges):
        while ahead and ahead[-1].start <= start:
            phase = ahead.pop()
            heappush(open_ones, (-phase.start, phase.end, phase.name, phase.detail))
        while open_ones and open_ones[0][1] <= start:
            heappop(open_ones)
        following = bisect_left(times, end)
        name, detail = marks[following][1] if following < len(marks) else OTHER, ""
        if open_ones:
            name, detail = open_ones[0][2:]
        if found and (found[-1].name, found[-1].detail) == (name, detail):
            start = found.pop().start
        found.append(Phase(name, start, end, detail))
    return tuple(found)
