"""What a cold start took: phases that add up, moments, loads; as text, JSON, metrics and spans.

Part of `_coldstart`; pure. Read next: `_partition` for how phases come about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .._engine import LoadStats
from .._trace import Lane, Span, Trace, write_trace
from ._partition import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from opentelemetry.trace import TracerProvider
    from prometheus_client.core import Metric

__all__ = ["ColdStartReport", "LoadReport"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Hold one load of a cold start. Moments are seconds since the process began.

    Attributes:
        name: The name it is watched by.
        submitted: When its weights were asked for.
        first_byte: When the first had landed; None before.
        all_resident: When all had; None before, and where the load failed.
        layers: When each layer that is resident was so, in the order of the plan.
        stats: Bytes, retries, stalls and all else that is counted.
    """

    name: str
    submitted: float
    first_byte: float | None
    all_resident: float | None
    layers: Mapping[str, float]
    stats: LoadStats

    @property
    def bytes_per_second(self) -> float:
        """Mean rate at which bytes became resident, up to the report or the end of the load."""
        return self.stats.bytes_resident / self.stats.seconds if self.stats.seconds else 0.0

    @property
    def cache_hit_bytes(self) -> int:
        """Bytes that came from a cache: the page cache, or a tier that keeps what streams from a store."""
        return self.stats.cached_bytes + self.stats.tier_bytes


@dataclass(frozen=True, slots=True)
class ColdStartReport:
    """Hold what a process's start took, up to the last thing that is known of it.

    Attributes:
        started: Unix time at which the process began.
        phases: From 0 to `seconds`, without gaps or overlaps.
        reached: When each named moment was reached, in seconds since the process began; in their order.
        loads: The loads that were watched.
        wall_seconds: What whoever started the process measured; None where nobody did.
        traces: What each load that is resident did when, by its name, where that was asked for; in seconds since the
            process began.
    """

    started: float
    phases: tuple[Phase, ...]
    reached: Mapping[str, float]
    loads: tuple[LoadReport, ...]
    wall_seconds: float | None = None
    traces: Mapping[str, Trace] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What the phases add up to."""
        return self.phases[-1].end if self.phases else 0.0

    def totals(self) -> dict[str, float]:
        """Return the seconds of each phase by name, those of one name added up, in the order of their beginning."""
        found: dict[str, float] = {}
        for phase in self.phases:
            found[phase.name] = found.get(phase.name, 0.0) + phase.seconds
        return found

    def as_dict(self) -> dict[str, object]:
        """Return everything but traces, as JSON can hold it."""
        loads = [
            {**asdict(load), "bytes_per_second": load.bytes_per_second, "cache_hit_bytes": load.cache_hit_bytes}
            for load in self.loads
        ]
        return {
            "kind": "cold start",
            "started": self.started,
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "totals": self.totals(),
            "reached": dict(self.reached),
            "phases": [asdict(phase) for phase in self.phases],
            "loads": loads,
        }

    @classmethod
    def from_dict(cls, report: Mapping[str, object]) -> ColdStartReport:
        """Return the report that `as_dict` made this of.

        Raises:
            KeyError, TypeError: It is none.
        """
        found: Mapping[str, Any] = report  # values of JSON
        own = ("name", "submitted", "first_byte", "all_resident", "layers")
        loads = [
            LoadReport(**{key: load[key] for key in own}, stats=LoadStats(**load["stats"])) for load in found["loads"]
        ]
        return cls(
            started=found["started"],
            phases=tuple([Phase(**phase) for phase in found["phases"]]),
            reached=found["reached"],
            loads=tuple(loads),
            wall_seconds=found["wall_seconds"],
        )

    def write_trace(self, path: Path) -> None:
        """Write phases, moments and traces on one axis, as JSON that https://ui.perfetto.dev and chrome://tracing open.

        Raises:
            OSError: The file cannot be written.
        """
        phases = [
            Span(Lane.PHASE, f"{phase.name} {phase.detail}".strip(), phase.start, phase.end) for phase in self.phases
        ]
        moments = tuple((name, at) for name, at in self.reached.items() if at >= 0)
        write_trace([Trace("cold start", tuple(phases), moments), *self.traces.values()], path)

    def table(self) -> str:
        """Return the report as text."""
        from ._table import report_table

        return report_table(self)

    def metrics(self) -> Iterable[Metric]:
        """Return the report as families of metrics, for a collector of Prometheus' Python client.

        Raises:
            ModuleNotFoundError: prometheus_client is not installed: `pip install 'streamload[metrics]'`.
        """
        from ._metrics import families

        return families(self)

    def record_spans(self, tracer_provider: TracerProvider | None = None) -> None:
        """Record the report as OpenTelemetry spans: one for the start, below it one for each phase and each load.

        Args:
            tracer_provider: Who records them; None takes the process's own.

        Raises:
            ModuleNotFoundError: opentelemetry-api is not installed.
        """
        from ._spans import record

        record(self, tracer_provider)
