"""What the storage benchmark found.

Part of `bench._storage`; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from ..._units import say_bytes, say_count
from .._figures import Figure, dicts_of, figures_table, machine_line, ratios_of
from .._result import BenchResult
from .._table import decisions

if TYPE_CHECKING:
    from ..._machine import MachineFacts

__all__ = ["StorageBench"]

# Nothing that comes from the drive is faster than the drive, whichever way it was found out.
_CEILINGS: Final = {
    "direct": ("direct", "buffered"),
    "buffered": ("direct", "buffered"),
    "cached": ("cached",),
    "bucket": ("bucket",),
    "first byte": ("first byte",),
}
_HEADINGS: Final = {
    "direct": "cold, around the page cache",
    "buffered": "cold, through the page cache",
    "cached": "warm, out of the page cache",
    "bucket": "by connections",
    "first byte": "until the first byte (seconds)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageBench(BenchResult):
    """Hold one run of `streamload bench storage`.

    Attributes:
        where: What was read: a path or URL, without what may be secret in it; empty for a file made for it.
        store: "drive" or "bucket".
        nbytes: Bytes that one run read.
        files: How many files or objects they lie in.
        cache: State of the page cache before the cold and the warm runs, by "cold" and "warm"; as `EngineBench`'s.
        cached: Part of the files that it held before each run, likewise; None where unknown.
        rounds: How often each way ran.
        figures: One of each way at each size and depth.
        command: What was typed.
        machine: Where it ran.
    """

    where: str
    store: str
    nbytes: int
    files: int
    cache: dict[str, str]
    cached: dict[str, tuple[float | None, ...]]
    rounds: int
    figures: tuple[Figure, ...]
    command: str
    machine: MachineFacts

    def ratios(self) -> dict[str, float]:
        """Return streamload's best rate over the ceiling's and over the best peer's, for each target."""
        return ratios_of(self.figures, _CEILINGS)

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {
            "kind": "bench storage",
            **asdict(self),
            "figures": dicts_of(self.figures),
            "ratios": self.ratios(),
        }

    def table(self) -> str:
        """Return the result as text."""
        what = "object" if self.store == "bucket" else "file"
        said = decisions(tuple(each.score for each in self.figures))
        lines = [
            f"{say_bytes(self.nbytes)} of {say_count(self.files, what)}{f', {self.where}' if self.where else ''}",
            f"{say_count(self.rounds, 'round')}; medians"
            + "".join(f"; {when} runs: page cache {state}" for when, state in self.cache.items()),
            machine_line(self.machine),
            *figures_table(self.figures, _HEADINGS, _CEILINGS),
            "",
            *(part for line in said for part in wrap(line, 100, subsequent_indent="  ")),
            *(f"{name.replace('_', ' ')}: {value:.3f}" for name, value in self.ratios().items()),
        ]
        return "\n".join(lines)
