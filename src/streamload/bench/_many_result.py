"""What many small tensors cost, beside the same bytes in few.

Floor 6; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ._result import CEILINGS, BenchResult

if TYPE_CHECKING:
    from .._machine import MachineFacts
    from ._planning import PlanningCost
    from ._result import Score

__all__ = ["ManyTensorsBench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyTensorsBench(BenchResult):
    """Hold one run of `streamload bench engine --many-tensors`.

    Attributes:
        tensors: How many the two checkpoints have, the fewer first.
        nbytes: Bytes of their weights, in that order.
        device: Where they went: "cpu" or "cuda:N".
        cache: State of the page cache; see `EngineBench`.
        rounds: How often each contestant ran.
        few: Scores of ceilings and streamload over few tensors.
        many: The same over many.
        planning: What opening and planning a checkpoint of still more tensors took.
        command: What was typed.
        machine: Where it ran.
    """

    tensors: tuple[int, int]
    nbytes: tuple[int, int]
    device: str
    cache: str
    rounds: int
    few: tuple[Score, ...]
    many: tuple[Score, ...]
    planning: PlanningCost
    command: str
    machine: MachineFacts

    def rates(self) -> dict[str, tuple[float, float]]:
        """Return streamload's rates over few tensors and over many, in bytes a second.

        By target, for the whole call: it opens the checkpoint and plans.
        """
        found: dict[str, tuple[float, float]] = {}
        for few, many in zip(self.few, self.many, strict=True):
            if few.role != "streamload" or few.target in found:
                continue  # the first is the one that users are told of
            found[few.target] = few.rate(self.nbytes[0]), many.rate(self.nbytes[1])
        return found

    def ratios(self) -> dict[str, float]:
        """Return the rates over many tensors divided by those over few, by the names of `rates`."""
        return {name: many / few for name, (few, many) in self.rates().items()}

    def ratios_to_ceiling(self) -> dict[str, tuple[float, float]]:
        """Return the rates over those of the fastest ceiling over the same tensors, by the names of `rates`."""
        found: dict[str, tuple[float, float]] = {}
        for target, rates in self.rates().items():
            best = [
                max((s.rate(nbytes) for s in scores if s.role == "ceiling" and s.target in CEILINGS[target]), default=0)
                for scores, nbytes in zip((self.few, self.many), self.nbytes, strict=True)
            ]
            if all(best):
                found[target] = rates[0] / best[0], rates[1] / best[1]
        return found

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "kind": "bench many tensors",
            **asdict(self),
            "rates": self.rates(),
            "ratios": self.ratios(),
            "ratios_to_ceiling": self.ratios_to_ceiling(),
            "open_microseconds_per_tensor": self.planning.open_microseconds_per_tensor,
            "plan_microseconds_per_tensor": self.planning.plan_microseconds_per_tensor,
        }

    def table(self) -> str:
        """Return the result as text."""
        from ._table import many_tensors_table

        return many_tensors_table(self)
