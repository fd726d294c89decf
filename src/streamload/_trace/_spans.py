"""Spans of reading, copying and computing, by layer.

Part of `_trace`. All times are seconds since the trace began.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Lane", "Span", "Trace", "in_link_order", "in_tracks"]


class Lane(str, Enum):
    """Name what a span of time was spent on."""

    READ = "read"
    COPY = "copy"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """Hold one stretch of work for one layer.

    Attributes:
        lane: What was done.
        layer: The checkpoint's layer it was done for.
        start: Seconds since the trace began.
        end: The same; not before `start`.
        nbytes: Bytes read or copied; 0 for computing.
        thread: Which reader, counted from 0; 0 for other lanes.
    """

    lane: Lane
    layer: str
    start: float
    end: float
    nbytes: int = 0
    thread: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold what a load did.

    Attributes:
        title: What kind of load it was.
        spans: The work, in no particular order.
        instants: Names of moments, and when they were.
    """

    title: str
    spans: tuple[Span, ...]
    instants: tuple[tuple[str, float], ...]

    def lane(self, lane: Lane) -> list[Span]:
        """Return one lane's spans by their start."""
        return sorted((span for span in self.spans if span.lane is lane), key=lambda span: (span.start, span.end))


def in_link_order(copies: Iterable[Span]) -> list[Span]:
    """Cut off each copy's time in the queue: a link moves one copy at a time, in the order they end."""
    result: list[Span] = []
    free_at = 0.0
    for span in sorted(copies, key=lambda span: span.end):
        start = min(max(span.start, free_at), span.end)
        result.append(replace(span, start=start))
        free_at = span.end
    return result


def in_tracks(reads: Iterable[Span]) -> list[Span]:
    """Number readers anew, so that the reads of one do not overlap: a thread may have many under way."""
    result: list[Span] = []
    free_at: list[float] = []  # by track
    track_of: dict[int, list[int]] = {}  # by thread
    for span in sorted(reads, key=lambda span: (span.start, span.end)):
        own = track_of.setdefault(span.thread, [])
        track = next((track for track in own if free_at[track] <= span.start), len(free_at))
        if track == len(free_at):
            free_at.append(0.0)
            own.append(track)
        free_at[track] = span.end
        result.append(replace(span, thread=track))
    return result
