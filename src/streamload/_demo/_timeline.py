"""What happened when during one load and first forward: spans of reading, copying and computing, by layer.

Floor 6; stdlib only. `_text` and `_picture` each show a `Timeline`, and so does what `_trace` writes; `_measure` makes
one.
All times are seconds since the run began.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._trace import Lane, Span, Trace

__all__ = ["Timeline"]


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
        return self.as_trace().lane(lane)

    def as_trace(self) -> Trace:
        """Return it as what can be written for a viewer of traces."""
        instants = (("load call returned", self.returned), ("first token", self.first_token))
        return Trace(self.title, self.spans, instants, self.layers)

    def bytes_arrived(self, at: float) -> int:
        """Count the bytes whose copy had ended at a time."""
        return sum(span.nbytes for span in self.spans if span.lane is Lane.COPY and span.end <= at)

    def began(self, layer: str) -> float:
        """Return when computing began on a layer; infinity where it never did."""
        starts = (span.start for span in self.spans if span.lane is Lane.COMPUTE and span.layer == layer)
        return min(starts, default=float("inf"))
