"""What happened when during one load and first forward: spans of reading, copying and computing, by layer.

Floor 6; stdlib only. `_text`, `_picture` and `_perfetto` each show a `Timeline`; `_measure` makes one.
All times are seconds since the run began.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Lane", "Span", "Timeline", "in_link_order", "layer_groups"]


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
        start: Seconds since the run began.
        end: The same; not before `start`.
        nbytes: Bytes read or copied; 0 for computing.
        thread: Which reader thread, counted from 0; 0 for other lanes.
    """

    lane: Lane
    layer: str
    start: float
    end: float
    nbytes: int = 0
    thread: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """Hold one run: what it did, and when its first token was there.

    Attributes:
        title: What kind of run it was.
        layers: The layers in execution order.
        spans: The work, in no particular order.
        first_token: Seconds until the first token was on the host.
        returned: Seconds until the loading call returned.
    """

    title: str
    layers: tuple[str, ...]
    spans: tuple[Span, ...]
    first_token: float
    returned: float

    @property
    def end(self) -> float:
        """Seconds until the last thing ended."""
        return max([self.first_token, *(span.end for span in self.spans)])

    def lane(self, lane: Lane) -> list[Span]:
        """Return one lane's spans by their start."""
        return sorted((span for span in self.spans if span.lane is lane), key=lambda span: (span.start, span.end))

    def bytes_arrived(self, at: float) -> int:
        """Count the bytes whose copy had ended at a time."""
        return sum(span.nbytes for span in self.spans if span.lane is Lane.COPY and span.end <= at)

    def began(self, layer: str) -> float:
        """Return when computing began on a layer; infinity where it never did."""
        starts = (span.start for span in self.spans if span.lane is Lane.COMPUTE and span.layer == layer)
        return min(starts, default=float("inf"))


def in_link_order(copies: Iterable[Span]) -> list[Span]:
    """Cut off each copy's time in the queue: a link moves one copy at a time, in the order they end."""
    result: list[Span] = []
    free_at = 0.0
    for span in sorted(copies, key=lambda span: span.end):
        start = min(max(span.start, free_at), span.end)
        result.append(Span(span.lane, span.layer, start, span.end, span.nbytes, span.thread))
        free_at = span.end
    return result


def layer_groups(layers: tuple[str, ...], most: int) -> dict[str, list[str]]:
    """Put consecutive layers together until there are at most `most` rows; each gets a short label.

    Returns:
        Label to layers, in order: "layers.0", or "layers.0 … layers.3" for several.
    """
    each = -(-len(layers) // most)
    short = [_short(layer) for layer in layers]
    groups: dict[str, list[str]] = {}
    for start in range(0, len(layers), each):
        part = list(layers[start : start + each])
        label = short[start] if len(part) == 1 else f"{short[start]} … {short[start + len(part) - 1]}"
        groups[label] = part
    return groups


def _short(layer: str) -> str:
    return layer.removeprefix("model.") or "(rest)"
