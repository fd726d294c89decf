"""What a benchmark found, and what follows from it: ratios, and JSON for the record.

Floor 6; pure. `_table` makes text of it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from .._trace import write_trace
from .._whole_file import write_whole
from ..errors import StreamloadError
from ._samples import medians_agree, spread_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .._machine import MachineFacts
    from .._trace import Trace
    from ._settings import PeerSettings

__all__ = [
    "CEILINGS",
    "TARGETS",
    "BenchError",
    "BenchResult",
    "EngineBench",
    "Score",
    "cache_state",
    "check_build",
    "write_result",
]

TARGETS = ("existing", "new", "ring")

# What each target is held against. Nothing fills new memory faster than memory that is there; a drive is slower than
# memory, so where it was measured it is the ceiling only if the others did not have to wait for it.
CEILINGS = {"existing": ("existing", "drive"), "new": ("existing", "drive"), "ring": ("ring", "drive")}

_BUILDS_THAT_COUNT = ("release",)


class BenchError(StreamloadError):
    """Report a benchmark that cannot run, or whose figures would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Hold what one contestant did.

    Attributes:
        name: What it is.
        role: "ceiling", "streamload" or "peer".
        target: "existing" memory, touched before; "new" memory, taken while the clock runs; "ring": existing memory
            that is reached through staging memory; "drive": nothing is kept. `Figure` has others.
        seconds: Of each round; empty when it has no rate.
        cpu_seconds: Processor time of the whole process in each round.
        peak_memory_bytes: Most memory held above that at the start, pages of mapped files not counted, when it ran
            for the first time; None where unknown.
        first_byte_seconds: Of each round, from the call to the first bytes on the device; empty where unknown.
        stats: `LoadStats` of the last round; None for others.
        cannot_run: Why it did not run; empty when it did.
        wrong: What was wrong with its bytes; empty when they were right.
    """

    name: str
    role: str
    target: str
    seconds: tuple[float, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    peak_memory_bytes: int | None = None
    first_byte_seconds: tuple[float, ...] = ()
    stats: Mapping[str, float] | None = None
    cannot_run: str = ""
    wrong: str = ""

    def rate(self, nbytes: int) -> float:
        """Return the median rate in bytes a second."""
        return nbytes / median(self.seconds)

    def cpu_seconds_per_gb(self, nbytes: int) -> float:
        """Return the median processor time for 10^9 bytes."""
        return median(self.cpu_seconds) / (nbytes / 1e9)

    @property
    def spread(self) -> float:
        """Slowest less fastest, as a part of the median."""
        return spread_of(self.seconds)

    def agrees_with(self, other: Score) -> bool:
        """Say whether both took the same time as far as these rounds can tell: `medians_agree`."""
        return medians_agree(self.seconds, other.seconds)


class BenchResult(ABC):
    """Write what a benchmark found.

    Attributes:
        machine: Where it ran.
        timelines: What loads did when, of runs that are in no figure.
    """

    __slots__ = ()
    machine: MachineFacts
    timelines: tuple[Trace, ...] = ()

    @abstractmethod
    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""

    def write(self, path: Path) -> None:
        """Write the result as JSON.

        Raises:
            BenchError: The native core is not a release build, so that its times mean nothing.
            OSError: The file cannot be written.
        """
        write_result(path, self.as_dict(), native_build=self.machine.native_build)

    def write_trace(self, path: Path) -> None:
        """Write the timelines, every span of them, as JSON that https://ui.perfetto.dev and chrome://tracing open.

        Raises:
            OSError: The file cannot be written.
        """
        write_trace(self.timelines, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench(BenchResult):
    """Hold one run of `streamload bench engine`.

    Attributes:
        nbytes: Bytes of the checkpoint's weights.
        tensors: How many tensors it has.
        device: Where they went: "cpu" or "cuda:N".
        cache: State of the page cache: "warm", "cold", "cold, unverified" or "mixed".
        rounds: How often each contestant ran.
        scores: One of each contestant.
        fixed_cost_seconds: Of each run with a new engine, from the call to the first bytes on the device.
        cached: Part of the files that the page cache held before each run; None where unknown.
        peer_settings: What peers found in the environment.
        command: What was typed.
        machine: Where it ran.
        timelines: Of one more load, by what users call `fill`; on the host one more, through the ring.
    """

    nbytes: int
    tensors: int
    device: str
    cache: str
    rounds: int
    scores: tuple[Score, ...]
    fixed_cost_seconds: tuple[float, ...]
    cached: tuple[float | None, ...]
    peer_settings: PeerSettings
    command: str
    machine: MachineFacts
    timelines: tuple[Trace, ...] = ()

    def best(self, role: str, *targets: str) -> Score | None:
        """Return the fastest contestant of a role, and of targets if any are given."""
        ran = [s for s in self.scores if s.role == role and s.seconds and (not targets or s.target in targets)]
        return max(ran, key=lambda score: score.rate(self.nbytes), default=None)

    def ceiling(self, target: str) -> Score | None:
        """Return the ceiling that a target is held against: the fastest of those that move the bytes as far."""
        return self.best("ceiling", *CEILINGS[target])

    def ratios(self) -> dict[str, float]:
        """Return streamload's rates divided by the ceiling's and by the best peer's, for each target."""
        found: dict[str, float] = {}
        for target in TARGETS:
            ours = self.best("streamload", target)
            for other, score in (("ceiling", self.ceiling(target)), ("best_peer", self.best("peer", target))):
                if ours is not None and score is not None:
                    found[f"{target}_to_{other}"] = ours.rate(self.nbytes) / score.rate(self.nbytes)
        return found

    def ratios_to_peers(self) -> dict[str, float]:
        """Return streamload's rate divided by that of each peer with the same target, by the peer's name."""
        found: dict[str, float] = {}
        for score in self.scores:
            ours = self.best("streamload", score.target)
            if score.role == "peer" and score.seconds and ours is not None:
                found[score.name] = ours.rate(self.nbytes) / score.rate(self.nbytes)
        return found

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        ran = [score for score in self.scores if score.seconds]
        return {
            "kind": "bench engine",
            **asdict(self),
            "timelines": [trace.as_dict() for trace in self.timelines],
            "peer_settings": dict(self.peer_settings.values),
            "median_seconds": {score.name: median(score.seconds) for score in ran},
            "cpu_seconds_per_gb": {score.name: score.cpu_seconds_per_gb(self.nbytes) for score in ran},
            "ratios": self.ratios(),
            "ratios_to_peers": self.ratios_to_peers(),
        }

    def table(self) -> str:
        """Return the result as text."""
        from ._table import engine_table

        return engine_table(self)


def write_result(path: Path, content: Mapping[str, object], *, native_build: str | None) -> None:
    """Write a result as JSON: a file has all of it, or is as it was.

    Raises:
        BenchError: The native core is not a release build, so that its times mean nothing.
        OSError: The file cannot be written.
    """
    check_build(native_build)
    write_whole(path, json.dumps(content, indent=2) + "\n")


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
