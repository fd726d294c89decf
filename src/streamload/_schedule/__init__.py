"""Predict when a model's layers arrive and compute, on machines that are not here.

Floor 3; pure: a discrete-event simulation of the plans that the engine runs, no thread, no clock. `_pipeline` is how
fast bytes travel, `_cold_start` the first pass, `_passes` the passes of a model that does not fit. `_cost` guesses the
computing time of layers from their headers, `_accelerators` is a table of devices, `_forecast` puts all together.
"""

from __future__ import annotations

from ._accelerators import ACCELERATORS, STORAGE_RATES, Accelerator
from ._cold_start import ColdStart, simulate_cold_start
from ._cost import LayerCost, ModelFacts, cost_of_layers
from ._forecast import (
    GROUP_SECONDS,
    LOAD_SECONDS,
    MOST_TOKENS,
    Forecast,
    OversizedForecast,
    PromptForecast,
    free_tokens,
    make_forecast,
)
from ._passes import SteadyPass, simulate_passes
from ._pipeline import Pipeline, reads_by_group

__all__ = [
    "ACCELERATORS",
    "GROUP_SECONDS",
    "LOAD_SECONDS",
    "MOST_TOKENS",
    "STORAGE_RATES",
    "Accelerator",
    "ColdStart",
    "Forecast",
    "LayerCost",
    "ModelFacts",
    "OversizedForecast",
    "Pipeline",
    "PromptForecast",
    "SteadyPass",
    "cost_of_layers",
    "free_tokens",
    "make_forecast",
    "reads_by_group",
    "simulate_cold_start",
    "simulate_passes",
]
