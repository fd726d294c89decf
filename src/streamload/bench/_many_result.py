"""What many small tensors cost, beside the same bytes in few.

Floor 6; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ._result import TARGETS, write_result

if TYPE_CHECKING:
    from pathlib import Path

    from .._machine import MachineFacts
    from ._planning import PlanningCost
    from ._result import Score

__all__ = ["ManyTensorsBench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyTensorsBench:
    """Hold one run of `streamload bench engine --many-tensors`.

    Attributes:
        tensors: How many the two checkpoints have, the fewer first.
        nbytes: Bytes of their weights, in that order.
        device: Where they went: "cpu" or "cuda:N".
        rounds: How often each contestant ran.
        few: Streamload's scores over few tensors.
        many: The same over many.
        planning: What opening and planning a checkpoint of still more tensors took.
        command: What was typed.
        machine: Where it ran.
    """

    tensors: tuple[int, int]
    nbytes: tuple[int, int]
    device: str
    rounds: int
    few: tuple[Score, ...]
    many: tuple[Score, ...]
    planning: PlanningCost
    command: str
    machine: MachineFacts

    def rate(self, target: str, number: int) -> float:
        """Return streamload's best rate into a target, over few tensors (0) or many (1), in bytes a second."""
        return max(score.rate(self.nbytes[number]) for score in (self.few, self.many)[number] if score.target == target)

    def ratios(self) -> dict[str, float]:
        """Return the rate over many tensors divided by that over few, for each target."""
        targets = {score.target for score in self.few}
        return {target: self.rate(target, 1) / self.rate(target, 0) for target in TARGETS if target in targets}

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "kind": "bench many tensors",
            **asdict(self),
            "rates": {target: [self.rate(target, 0), self.rate(target, 1)] for target in self.ratios()},
            "ratios": self.ratios(),
            "open_microseconds_per_tensor": self.planning.open_microseconds_per_tensor,
            "plan_microseconds_per_tensor": self.planning.plan_microseconds_per_tensor,
        }

    def table(self) -> str:
        """Return the result as text."""
        from ._table import many_tensors_table

        return many_tensors_table(self)

    def write(self, path: Path) -> None:
        """Write the result as JSON.

        Raises:
            BenchError: The native core is not a release build, so that its times mean nothing.
            OSError: The file cannot be written.
        """
        write_result(path, self.as_dict(), native_build=self.machine.native_build)
