"""Spans of reading, copying and computing, by layer.

Part of `_trace`. All times are seconds since the trace began. Read next: `_merge` for how a long trace becomes short.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from ._merge import at_most

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Lane", "Span", "Trace", "in_link_order", "in_tracks"]

MOST_SPANS = 4000
"""What a timeline in a result has at most: half a megabyte of JSON."""


class Lane(str, Enum):
    """Name what a span of time was spent on; a phase is one of a process's start, in the trace of a cold start."""

    PHASE = "phase"
    READ = "read"
    COPY = "copy"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """Hold one stretch of work for one layer.

    Attributes:
        lane: What was done.
        layer: The checkpoint's layer it was done for; of a phase, its name.
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
        layers: The layers in execution order; empty where that is not known.
        began: When it began, on `time.monotonic()`'s clock; None where nobody kept that.
    """

    title: str
    spans: tuple[Span, ...]
    instants: tuple[tuple[str, float], ...]
    layers: tuple[str, ...] = ()
    began: float | None = None

    @property
    def end(self) -> float:
        """Seconds until the last thing ended; 0 where there is nothing."""
        return max([0.0, *(span.end for span in self.spans), *(at for _, at in self.instants)])

    def shifted(self, seconds: float) -> Trace:
        """Return the same, with all of it so much later: its times are counted from something earlier."""
        spans = [replace(span, start=span.start + seconds, end=span.end + seconds) for span in self.spans]
        instants = tuple((name, at + seconds) for name, at in self.instants)
        began = None if self.began is None else self.began - seconds
        return replace(self, spans=tuple(spans), instants=instants, began=began)

    def as_dict(self, most_spans: int = MOST_SPANS) -> dict[str, object]:
        """Return a timeline, as JSON can hold it: times in seconds, rounded to microseconds.

        Args:
            most_spans: Where there are more, neighbours of one lane, layer and thread are merged (see `at_most`); bytes
                add up to the same.
        """
        return {
            "title": self.title,
            "layers": list(dict.fromkeys([*self.layers, *(span.layer for span in self._by_start())])),
            "spans": [
                {
                    "lane": span.lane.value,
                    "layer": span.layer,
                    "start": round(span.start, 6),
                    "end": round(span.end, 6),
                    "nbytes": span.nbytes,
                    "thread": span.thread,
                }
                for span in at_most(self._by_start(), most_spans)
            ],
            "instants": [[name, round(at, 6)] for name, at in self.instants],
        }

    @classmethod
    def from_dict(cls, timeline: Mapping[str, object]) -> Trace:
        """Return the trace of which `as_dict` made this, but for what was merged and rounded.

        Raises:
            KeyError, TypeError, ValueError: It is no timeline.
        """
        found: Mapping[str, Any] = timeline  # values of JSON
        spans = [Span(**{**span, "lane": Lane(span["lane"])}) for span in found["spans"]]
        instants = [(name, at) for name, at in found["instants"]]
        return cls(found["title"], tuple(spans), tuple(instants), tuple(found["layers"]))

    def _by_start(self) -> list[Span]:
        return sorted(self.spans, key=lambda span: (span.start, span.end))

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
