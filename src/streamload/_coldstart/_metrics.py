"""A cold start as metrics of Prometheus.

Part of `_coldstart`; needs prometheus_client, its official Python client.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"metrics need {error.name}, which is not installed: pip install 'streamload[metrics]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from ._report import ColdStartReport

__all__ = ["ReportCollector", "families", "text"]

_PREFIX: Final = "streamload"
# Fields of `LoadStats` that are a level, and may fall; all else only grows.
_LEVELS: Final = ("bytes_total", "bytes_resident", "groups", "groups_resident", "staging_bytes", "pinned_bytes")
_MOMENTS: Final = ("seconds", "first_byte_seconds", "first_group_seconds")  # told by timestamps


class ReportCollector(Collector):
    """Read a report at every scrape.

    Args:
        report: Makes it.
    """

    def __init__(self, report: Callable[[], ColdStartReport]) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        """Return what there is to say now."""
        return families(self._report())


def text(report: ColdStartReport) -> str:
    """Return a report in Prometheus' text format, as the textfile collector of node_exporter reads it."""
    registry = CollectorRegistry()
    registry.register(ReportCollector(lambda: report))
    return generate_latest(registry).decode()


def families(report: ColdStartReport) -> Iterator[Metric]:
    """Yield a report's families of metrics."""
    spent = GaugeMetricFamily(f"{_PREFIX}_phase_seconds", "Time of the start spent in a phase.", labels=["phase"])
    for name, seconds in report.totals().items():
        spent.add_metric([name], seconds)
    reached = GaugeMetricFamily(
        f"{_PREFIX}_phase_timestamp_seconds",
        "Unix time at which a phase ended for the last time, or a moment was reached.",
        labels=["phase"],
    )
    for name, at in {**{phase.name: phase.end for phase in report.phases}, **report.reached}.items():
        reached.add_metric([name], report.started + at)
    yield from (spent, reached)
    # prometheus_client's own is off by up to a second: it counts from the machine's start, which /proc/stat rounds.
    yield GaugeMetricFamily(
        f"{_PREFIX}_process_start_timestamp_seconds", "Unix time at which the process began.", report.started
    )
    yield GaugeMetricFamily(
        f"{_PREFIX}_cold_start_seconds", "Time that the phases add up to, from the process's start.", report.seconds
    )
    if report.loads:
        yield from _loads(report)


def _loads(report: ColdStartReport) -> Iterator[Metric]:
    rate = GaugeMetricFamily(
        f"{_PREFIX}_load_bytes_per_second", "Mean rate of the load, up to now or its end.", labels=["load"]
    )
    hits = CounterMetricFamily(
        f"{_PREFIX}_load_cache_hit_bytes", "Bytes that came from the page cache or a tier.", labels=["load"]
    )
    layers = GaugeMetricFamily(
        f"{_PREFIX}_layer_timestamp_seconds", "Unix time at which a layer was resident.", labels=["load", "layer"]
    )
    for load in report.loads:
        rate.add_metric([load.name], load.bytes_per_second)
        hits.add_metric([load.name], load.cache_hit_bytes)
        for layer, at in load.layers.items():
            layers.add_metric([load.name, layer], report.started + at)
    yield from (rate, hits, layers)
    for field in asdict(report.loads[0].stats):
        if field in _MOMENTS:
            continue
        kind = GaugeMetricFamily if field in _LEVELS else CounterMetricFamily
        name = "bytes" if field == "bytes_total" else field  # `_total` is for counters
        family = kind(f"{_PREFIX}_load_{name}", f"LoadStats.{field}.", labels=["load"])
        for load in report.loads:
            family.add_metric([load.name], getattr(load.stats, field))
        yield family
