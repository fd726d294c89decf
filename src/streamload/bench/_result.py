"""What a benchmark found: a table for people, JSON for the record.

Floor 6; pure.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from .._units import say_bytes, say_count, say_rate
from ..errors import StreamloadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .._machine import MachineFacts

__all__ = ["BenchError", "EngineBench", "Score"]

_BUILDS_THAT_COUNT = ("release",)


class BenchError(StreamloadError):
    """Report a benchmark that cannot run, or whose figures would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Hold what one contestant did.

    Attributes:
        name: What it is.
        role: "ceiling", "streamload" or "peer".
        target: "existing" memory, touched before, or "new" memory, taken while the clock runs.
        seconds: Of each round; empty when it could not run.
        cpu_seconds: Processor time of the whole process in each round.
        peak_rss_bytes: Most memory held above that at the start, over all rounds; None where unknown.
        pinned_bytes: Most page-locked memory the engine held; None for others.
        cannot_run: Why it did not run; empty when it did.
    """

    name: str
    role: str
    target: str
    seconds: tuple[float, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    peak_rss_bytes: int | None = None
    pinned_bytes: int | None = None
    cannot_run: str = ""

    def rate(self, nbytes: int) -> float:
        """Return the median rate in bytes a second."""
        return nbytes / median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest less fastest, as a part of the median."""
        return (max(self.seconds) - min(self.seconds)) / median(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """Hold one run of `streamload bench engine`.

    Attributes:
        nbytes: Bytes of the checkpoint's weights.
        tensors: How many tensors it has.
        device: Where they went: "cpu" or "cuda:N".
        cache: State of the page cache: "warm", "cold" or "cold, unverified".
        rounds: How often each contestant ran.
        cached: Part of the files that the page cache held before each run; None where unknown.
        scores: One of each contestant.
        command: What was typed.
        machine: Where it ran.
    """

    nbytes: int
    tensors: int
    device: str
    cache: str
    rounds: int
    cached: tuple[float | None, ...]
    scores: tuple[Score, ...]
    command: str
    machine: MachineFacts

    def best(self, role: str, target: str | None = None) -> Score | None:
        """Return the fastest contestant of a role, and of a target if one is given."""
        ran = [s for s in self.scores if s.role == role and s.seconds and target in (None, s.target)]
        return max(ran, key=lambda score: score.rate(self.nbytes), default=None)

    def ratios(self) -> dict[str, float]:
        """Return streamload's rates divided by the ceiling's and by the best peer's, for each target."""
        found: dict[str, float] = {}
        ceiling = self.best("ceiling")
        for target in ("existing", "new"):
            ours = self.best("streamload", target)
            for other, score in (("ceiling", ceiling), ("best_peer", self.best("peer", target))):
                if ours is not None and score is not None:
                    found[f"{target}_to_{other}"] = ours.rate(self.nbytes) / score.rate(self.nbytes)
        return found

    def table(self) -> str:
        """Return the result as text."""
        ceiling = self.best("ceiling")
        head = (
            f"{say_bytes(self.nbytes)} in {self.tensors} tensors to {self.device}, page cache {self.cache}, "
            f"{say_count(self.rounds, 'round')}; medians"
        )
        lines = [head, "", f"{'':<46}{'rate':>10}{'spread':>8}{'/ceiling':>10}{'CPU s/GB':>10}{'peak RSS':>10}"]
        for score in self.scores:
            title = f"{score.role:<11}{score.name}"
            if not score.seconds:
                lines.append(f"{title:<46}not run: {score.cannot_run}")
                continue
            rate = score.rate(self.nbytes)
            of_ceiling = f"{rate / ceiling.rate(self.nbytes):.3f}" if ceiling else "-"
            cpu = median(score.cpu_seconds) / (self.nbytes / 1e9)
            rss = "-" if score.peak_rss_bytes is None else say_bytes(score.peak_rss_bytes)
            lines.append(f"{title:<46}{say_rate(rate):>10}{score.spread:>8.0%}{of_ceiling:>10}{cpu:>10.2f}{rss:>10}")
        lines += ["", *(f"{name.replace('_', ' ')}: {value:.3f}" for name, value in self.ratios().items())]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        medians = {s.name: median(s.seconds) for s in self.scores if s.seconds}
        return {"kind": "bench engine", **asdict(self), "median_seconds": medians, "ratios": self.ratios()}

    def write(self, path: Path) -> None:
        """Write the result as JSON.

        Raises:
            BenchError: The native core is not a release build, so that its times mean nothing.
            OSError: The file cannot be written.
        """
        check_build(self.machine.native_build)
        path.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


def check_build(native_build: str | None) -> None:
    """Refuse figures of a native core built without optimisation.

    Raises:
        BenchError: It is not a release build.
    """
    if native_build not in _BUILDS_THAT_COUNT:
        raise BenchError(f"the native core is a {native_build} build: its times mean nothing, so none are written")


def cache_state(*, asked_cold: bool, cached: Sequence[float | None]) -> str:
    """Name the state of the page cache by what it held before each round.

    Args:
        asked_cold: Whether the files were dropped from it.
        cached: The part of the files it held; None where the kernel would not say.
    """
    if not asked_cold:
        return "warm" if all(part is None or part > 0.99 for part in cached) else "mixed"
    if any(part is None for part in cached):
        return "cold, unverified"
    return "cold" if all(part is not None and part < 0.01 for part in cached) else "mixed"
