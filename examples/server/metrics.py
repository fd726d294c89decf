"""What Prometheus scrapes: how far the load is, what it took, what was asked for. Read next: `server`."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from language_model import State
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from language_model import LanguageModel
    from prometheus_client.core import Metric

_STATS = (  # kind, field of the stream's stats, what it says
    (GaugeMetricFamily, "bytes_total", "Bytes of the weights."),
    (GaugeMetricFamily, "bytes_resident", "Of them, bytes on the device."),
    (CounterMetricFamily, "bytes_read", "Bytes read."),
    (CounterMetricFamily, "stall_seconds", "Time that computing waited for weights, summed over threads."),
    (CounterMetricFamily, "requests", "Requests sent to the store, repeated ones included."),
    (CounterMetricFamily, "retries", "Of them, those sent because one before had failed."),
)


class LoadCollector(Collector):
    """Read a model's load at every scrape."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Yield what there is to say now."""
        state = GaugeMetricFamily("load_state", "1 for the state that the load is in.", labels=["state"])
        for name in get_args(State):
            state.add_metric([name], float(name == self._model.state))
        reached, stream = dict(self._model.phases), self._model.stream
        if stream is not None:
            stats = stream.stats()
            if stats.first_byte_seconds and "submitted" in reached:
                reached["first_byte"] = reached["submitted"] + stats.first_byte_seconds
            for kind, field, text in _STATS:
                yield kind(f"load_{field}", text, value=getattr(stats, field))
            rate = stats.bytes_resident / stats.seconds if stats.seconds else 0.0
            yield GaugeMetricFamily("load_bytes_per_second", "Mean rate of the load, up to now or its end.", value=rate)
        phases = GaugeMetricFamily("phase_timestamp_seconds", "Unix time when a phase was reached.", labels=["phase"])
        for name, at in reached.items():
            phases.add_metric([name], at)
        yield from (state, phases)
