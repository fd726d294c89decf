"""What happened when during one load and first forward: spans of reading, copying and computing, by layer.

Floor 6; stdlib only. `_text` and `_picture` each show a `Timeline`, and so does what `_trace` writes; `_measure` makes
one.
All times are seconds since the run began.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._trace import Lane, Span, Trace

__all__ = ["Timeline", "layer_groups"]


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
