"""The demo's figures: what they are, what they must be, and how they read.

Floor 6; stdlib only. `Figures` is made once all runs are over; nothing here measures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from .._units import say_bytes, say_rate, say_seconds

if TYPE_CHECKING:
    from .._machine import MachineFacts

__all__ = ["Figures", "Samples"]

_MOST_SPREAD = 0.25
"""Runs that differ by more than this were disturbed: on an idle machine they stay within a tenth."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Hold one quantity measured several times, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the slowest and the fastest are apart, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def __str__(self) -> str:
        least, most = min(self.seconds), max(self.seconds)
        return (
            f"{say_seconds(self.median):>8}   ({say_seconds(least)} to {say_seconds(most)}, {len(self.seconds)} runs)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Hold what one demo found.

    Attributes:
        subject: What was loaded, in words.
        nbytes: Bytes of its weights.
        tokens: Length of the prompt.
        device: Where to: "cpu" or "cuda:N".
        simulated_link: Rate the link was paced at in bytes a second; None for a real link.
        link_bytes_per_second: Rate measured over pinned memory in this process.
        compute: Passes with everything resident: C is their median.
        usual: First token, all weights waited for first.
        streamed: First token, computed while weights arrive.
        safetensors: First token, loaded by safetensors alone; None where it cannot be compared.
        bits_equal: Whether every run gave the same logits as safetensors', bit for bit.
        first_layer_arrived: Part of the bytes that had arrived when the first layer began to compute.
        first_layer_most: What that must be below; None for a model that may keep most of its bytes in front.
        residue: What was left in a module after its load.
    """

    subject: str
    nbytes: int
    tokens: int
    device: str
    simulated_link: float | None
    link_bytes_per_second: float
    compute: Samples
    usual: Samples
    streamed: Samples
    safetensors: Samples | None
    bits_equal: bool
    first_layer_arrived: float
    first_layer_most: float | None
    residue: tuple[str, ...]

    @property
    def move_seconds(self) -> float:
        """X: the time all weights take at the measured rate of the link."""
        return self.nbytes / self.link_bytes_per_second

    @property
    def ratio(self) -> float:
        """TTFT / max(X, C); 1 is the least any loader can reach."""
        return self.streamed.median / max(self.move_seconds, self.compute.median)

    @property
    def failures(self) -> list[str]:
        """What is not as it must be, in words; empty when all is well."""
        wrong = []
        if not self.bits_equal:
            wrong.append("the outputs differ from those of a model loaded by safetensors alone")
        others = [self.usual, *([self.safetensors] if self.safetensors else [])]
        if any(self.streamed.median >= other.median for other in others):
            wrong.append("streaming was not faster than the usual way")
        if self.first_layer_most is not None and self.first_layer_arrived >= self.first_layer_most:
            wrong.append(f"the first layer began only after {self.first_layer_arrived:.0%} of the bytes had arrived")
        if self.residue:
            wrong.append(f"the load left something behind: {self.residue[0]}")
        return wrong

    @property
    def doubts(self) -> list[str]:
        """Why the figures tell of the machine's other work rather than of loading; empty when they do not."""
        runs = {"usual": self.usual, "streamed": self.streamed, "compute": self.compute}
        unsure = [
            f"the {name} runs differ by {run.spread:.0%}" for name, run in runs.items() if run.spread > _MOST_SPREAD
        ]
        bound = (self.move_seconds + self.compute.median) / max(self.move_seconds, self.compute.median)
        if self.usual.median / self.streamed.median > bound:
            unsure.append(f"overlapping this X and C cannot give more than {bound:.2f} times")
        return unsure

    @property
    def heading(self) -> str:
        """The result in one line."""
        times = self.usual.median / self.streamed.median
        return (
            f"First token after {say_seconds(self.streamed.median)} instead of "
            f"{say_seconds(self.usual.median)}: {times:.2f} times as fast"
        )

    @property
    def link_words(self) -> str:
        """What kind of link it was, in a few words."""
        if self.simulated_link is None:
            return f"{self.device}, link measured at {say_rate(self.link_bytes_per_second)}"
        return f"host memory behind a simulated link of {say_rate(self.simulated_link)} (no GPU used)"

    def lines(self) -> list[str]:
        """Return the figures as text, one a line."""
        limit = "" if self.first_layer_most is None else f" (must be below {self.first_layer_most:.0%})"
        rows = [
            (
                "X  all weights over the link",
                f"{say_seconds(self.move_seconds):>8}   ({say_bytes(self.nbytes)} at "
                f"{say_rate(self.link_bytes_per_second)} as measured)",
            ),
            ("C  one pass, all resident", str(self.compute)),
            ("first token, the usual way", str(self.usual)),
            *([("first token, safetensors", str(self.safetensors))] if self.safetensors else []),
            ("first token, streamed", str(self.streamed)),
            ("streamed / max(X, C)", f"{self.ratio:>8.3f}   (1 is the least possible)"),
            ("first layer began after", f"{self.first_layer_arrived:>8.1%}   of the bytes{limit}"),
            (
                "outputs",
                f"{'equal' if self.bits_equal else 'DIFFER':>8}   bit for bit, to safetensors' own load as well",
            ),
            (
                "left in the module",
                f"{len(self.residue) or 'nothing':>8}   (every parameter a plain Parameter, no hooks)",
            ),
        ]
        return [f"  {name:<30}{text}" for name, text in rows]

    def as_dict(self, facts: MachineFacts, command: str) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "kind": "demo",
            **asdict(self),
            "move_seconds": self.move_seconds,
            "ratio_to_max_of_move_and_compute": self.ratio,
            "median_seconds": {
                "compute": self.compute.median,
                "usual": self.usual.median,
                "streamed": self.streamed.median,
                "safetensors": self.safetensors.median if self.safetensors else None,
            },
            "failures": self.failures,
            "doubts": self.doubts,
            "command": command,
            "machine": facts.as_dict(),
        }
