"""What the comparison of loaders found, and what follows from it.

Part of `bench._compare`; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .._result import BenchResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._machine import MachineFacts
    from ..._trace import Trace
    from .._result import Score
    from .._settings import PeerSettings

__all__ = ["CompareBench", "CompareSide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSide:
    """Hold the rounds with the page cache in one state.

    Attributes:
        cache: That state; see `EngineBench`.
        cached: Part of the files that the page cache held before each run; None where unknown.
        scores: One of each loader, and of each ceiling.
    """

    cache: str
    cached: tuple[float | None, ...]
    scores: tuple[Score, ...]

    def score(self, name: str) -> Score | None:
        """Return a loader's score."""
        return next((score for score in self.scores if score.name == name), None)

    def best(self, role: str, nbytes: int) -> Score | None:
        """Return the fastest of a role; None where none ran."""
        ran = [score for score in self.scores if score.role == role and score.seconds]
        return max(ran, key=lambda score: score.rate(nbytes), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareBench(BenchResult):
    """Hold one run of `streamload bench compare`.

    Attributes:
        nbytes: Bytes of the model's weights.
        tensors: How many tensors it has.
        device: Where they went: "cpu" or "cuda:N".
        rounds: How often each loader ran, in each state of the page cache.
        sides: By what was asked for, "warm" and "cold"; the first may be missing.
        peer_settings: What peers found in the environment.
        command: What was typed.
        machine: Where it ran.
        timelines: Of one more load by streamload, into new memory, with the files dropped from the page cache.
    """

    nbytes: int
    tensors: int
    device: str
    rounds: int
    sides: dict[str, CompareSide]
    peer_settings: PeerSettings
    command: str
    machine: MachineFacts
    timelines: tuple[Trace, ...] = ()

    def loaders(self) -> list[tuple[str, str]]:
        """Return role and name of everyone, ceilings first."""
        found = {(score.role, score.name): None for side in self.sides.values() for score in side.scores}
        return sorted(found, key=lambda one: ("ceiling", "streamload", "peer").index(one[0]))

    def ratios(self) -> dict[str, float]:
        """Return streamload's best rate over the ceiling's and over the best peer's, warm and cold."""
        found: dict[str, float] = {}
        for when, side in self.sides.items():
            ours = side.best("streamload", self.nbytes)
            for other, score in (
                ("ceiling", side.best("ceiling", self.nbytes)),
                ("best_peer", side.best("peer", self.nbytes)),
            ):
                if ours is not None and score is not None:
                    found[f"{when}_to_{other}"] = ours.rate(self.nbytes) / score.rate(self.nbytes)
        return found

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "kind": "bench compare",
            **asdict(self),
            "timelines": [trace.as_dict() for trace in self.timelines],
            "peer_settings": dict(self.peer_settings.values),
            "gigabytes_per_second": dict(self._rates()),
            "ratios": self.ratios(),
        }

    def _rates(self) -> Iterator[tuple[str, dict[str, float]]]:
        for when, side in self.sides.items():
            yield when, {score.name: score.rate(self.nbytes) / 1e9 for score in side.scores if score.seconds}

    def table(self) -> str:
        """Return the result as text."""
        from ._table import compare_table

        return compare_table(self)
