"""What Prometheus reads beside the phases of the start: the state that the load is in. Read next: `server`."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from language_model import State
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from language_model import LanguageModel
    from prometheus_client.core import Metric


class StateCollector(Collector):
    """Read a model's state at every scrape."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Yield 1 for the state that it is in."""
        state = GaugeMetricFamily("load_state", "1 for the state that the load is in.", labels=["state"])
        for name in get_args(State):
            state.add_metric([name], float(name == self._model.state))
        yield state
