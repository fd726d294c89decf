"""What the source benchmark found, and what follows from it.

Part of `bench._source`; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from .._result import BenchResult
from .._samples import spread_of
from ._clients import CEILING, LOAD_AFTER, OURS, RING

if TYPE_CHECKING:
    from ..._machine import MachineFacts
    from ..._trace import Trace
    from ._process import Transfer

__all__ = ["SourceBench", "SourceScore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScore:
    """Hold what one client did.

    Attributes:
        name: Who it is.
        role: "ceiling", "streamload" or "peer".
        kind: "ranges": it fetches them into memory; "whole load": it downloads, loads and copies; "fallback".
        idle: Of each round, with a main thread that waits.
        busy: Of each round, beside a main thread that runs Python.
        cannot_run: Why it did not take part; empty when it did.
    """

    name: str
    role: str
    kind: str
    idle: tuple[Transfer, ...] = ()
    busy: tuple[Transfer, ...] = ()
    cannot_run: str = ""

    def rate(self, nbytes: int, *, busy: bool = False) -> float | None:
        """Return the median rate in bytes a second; None where it was not measured."""
        times = [one.seconds for one in (self.busy if busy else self.idle)]
        return nbytes / median(times) if times else None

    def median_of(self, name: str) -> float | None:
        """Return the median of one of an idle transfer's numbers; None where it has none."""
        values = [getattr(one, name) for one in self.idle]
        known = [float(value) for value in values if value is not None]
        return median(known) if known else None

    @property
    def spread(self) -> float:
        """Slowest less fastest, as a part of the median."""
        times = [one.seconds for one in self.idle]
        return spread_of(times) if times else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBench(BenchResult):
    """Hold one run of `streamload bench source`.

    Attributes:
        url: The checkpoint.
        nbytes: Bytes of its objects, headers included.
        objects: How many they are.
        range_bytes: Length of a request where the client leaves it open.
        connections: Requests in flight, likewise.
        staging_cap_bytes: Most staging memory that streamload may take.
        rounds: How often each client ran.
        served_here: Whether the server was started for it, on this machine's processors.
        scores: One of each client.
        left_out: What a thorough run measures beside this, in words; empty after one.
        command: What was typed.
        machine: Where it ran.
        timelines: Of one more load by streamload, into memory that is there.
    """

    url: str
    nbytes: int
    objects: int
    range_bytes: int
    connections: int
    staging_cap_bytes: int
    rounds: int
    served_here: bool
    scores: tuple[SourceScore, ...]
    left_out: tuple[str, ...]
    command: str
    machine: MachineFacts
    timelines: tuple[Trace, ...] = ()

    def score(self, name: str) -> SourceScore | None:
        """Return a client's score, if it took part."""
        return next((score for score in self.scores if score.name == name and score.idle), None)

    def cpu_seconds_per_gb(self, score: SourceScore) -> float | None:
        """Return the median processor time for 10^9 bytes."""
        found = score.median_of("cpu_seconds")
        return None if found is None else found / (self.nbytes / 1e9)

    def ratios(self) -> dict[str, float]:
        """Return what streamload is held to; what could not be measured is not there."""
        found: dict[str, float] = {}
        ours, raw, ring, after = (self.score(name) for name in (OURS, CEILING, RING, LOAD_AFTER))
        peers = [score for score in self.scores if score.role == "peer" and score.idle and score.kind == "ranges"]
        if ours is None:
            return found
        rate, cpu = ours.rate(self.nbytes) or 0.0, self.cpu_seconds_per_gb(ours) or 0.0
        if raw is not None:
            found["rate_to_raw_sockets"] = rate / (raw.rate(self.nbytes) or rate)
            found["cpu_to_raw_sockets"] = cpu / (self.cpu_seconds_per_gb(raw) or cpu)
        if raw is not None and ring is not None:
            found["ring_rate_to_raw_sockets"] = (ring.rate(self.nbytes) or 0.0) / (raw.rate(self.nbytes) or 1.0)
            found["ring_cpu_to_raw_sockets"] = (self.cpu_seconds_per_gb(ring) or 0.0) / (
                self.cpu_seconds_per_gb(raw) or 1.0
            )
        if peers:
            found["rate_to_best_peer"] = rate / max(score.rate(self.nbytes) or 0.0 for score in peers)
            found["cpu_to_best_peer"] = cpu / min(self.cpu_seconds_per_gb(score) or cpu for score in peers)
        if ours.busy:
            found["busy_to_idle"] = (ours.rate(self.nbytes, busy=True) or 0.0) / rate
        faults, peak = ours.median_of("page_faults"), None if ring is None else ring.median_of("peak_memory_bytes")
        if faults is not None:
            found["page_faults_per_gb"] = faults / (self.nbytes / 1e9)
        if peak is not None:
            found["ring_peak_memory_to_staging_cap"] = peak / self.staging_cap_bytes
        if after is not None:
            found["seconds_to_download_then_load"] = (
                (self.nbytes / rate) * (after.rate(self.nbytes) or 0.0) / self.nbytes
            )
        return found

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        ran = [score for score in self.scores if score.idle]
        return {
            "kind": "bench source",
            **asdict(self),
            "timelines": [trace.as_dict() for trace in self.timelines],
            "gigabytes_per_second": {score.name: (score.rate(self.nbytes) or 0.0) / 1e9 for score in ran},
            "busy_gigabytes_per_second": {
                score.name: rate / 1e9 for score in ran if (rate := score.rate(self.nbytes, busy=True)) is not None
            },
            "cpu_seconds_per_gb": {score.name: self.cpu_seconds_per_gb(score) for score in ran},
            "ratios": self.ratios(),
        }

    def table(self) -> str:
        """Return the result as text."""
        from ._table import source_table

        return source_table(self)
