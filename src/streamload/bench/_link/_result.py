"""What the link benchmark found.

Part of `bench._link`; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from ..._units import say_count
from .._figures import Figure, dicts_of, figures_table, machine_line, ratios_of
from .._result import BenchResult

if TYPE_CHECKING:
    from ..._machine import MachineFacts

__all__ = ["LinkBench"]

_CEILINGS: Final = {"copies": ("copies",), "pageable": ("copies",)}
_HEADINGS: Final = {
    "copies": "copies out of pinned memory",
    "single": "one at a time, always the same bytes (small ones stay in caches)",
    "pageable": "copies out of pageable memory",
    "pinning": "pinning memory that is there (seconds for 10^9 bytes)",
}
_STAND_IN: Final = (
    "NO GPU: a stand-in. The device is host memory, its link is memcpy on one thread, and locking pages\n"
    "(mlock) stands for pinning. Nothing here is the rate of a GPU's link."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBench(BenchResult):
    """Hold one run of `streamload bench link`.

    Attributes:
        device: "cpu" or "cuda:N".
        stand_in: Whether host memory stood for a device.
        rounds: How often each way ran.
        figures: One of each way at each size.
        command: What was typed.
        machine: Where it ran.
    """

    device: str
    stand_in: bool
    rounds: int
    figures: tuple[Figure, ...]
    command: str
    machine: MachineFacts

    def ratios(self) -> dict[str, float]:
        """Return streamload's best rate over the ceiling's and over the best peer's."""
        return ratios_of(self.figures, _CEILINGS)

    def pinning_seconds_per_gb(self) -> dict[str, float]:
        """Return the median seconds for 10^9 bytes of each way of pinning that ran."""
        return {
            each.score.name: median(each.score.seconds) / (each.nbytes / 1e9)
            for each in self.figures
            if each.target == "pinning" and each.score.seconds
        }

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "kind": "bench link",
            **asdict(self),
            "figures": dicts_of(self.figures),
            "pinning_seconds_per_gb": self.pinning_seconds_per_gb(),
            "ratios": self.ratios(),
        }

    def table(self) -> str:
        """Return the result as text."""
        where = "host memory" if self.stand_in else self.device
        lines = [f"copies to {where}, {say_count(self.rounds, 'round')}; medians", machine_line(self.machine)]
        if self.stand_in:
            lines += ["", _STAND_IN]
        lines += figures_table(self.figures, _HEADINGS, _CEILINGS)
        lines += ["", *(f"{name.replace('_', ' ')}: {value:.3f}" for name, value in self.ratios().items())]
        return "\n".join(lines)
