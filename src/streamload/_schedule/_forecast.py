"""Put a model and a device together: what memory it takes, when the first token comes, how fast passes are.

Part of `_schedule`; pure. The costs of layers are guesses (`_cost`), rates come from a table (`_accelerators`), the
rest is simulated from the plan that a load would run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._plan import least_device_bytes, plan_slots
from ._cold_start import simulate_cold_start
from ._passes import simulate_passes
from ._pipeline import Pipeline, reads_by_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._plan import LoadPlan, SlotPlan
    from ._accelerators import Accelerator
    from ._cost import LayerCost

LOAD_SECONDS = 1e-3
"""Assumed from the call to the first read."""
GROUP_SECONDS = 1e-4
"""Assumed from a layer's last byte to the start of its first kernel: the waiter's wake, and launches."""

MOST_TOKENS = 1 << 30
"""Beyond it, prompts are not told apart."""


@dataclass(frozen=True, slots=True)
class PromptForecast:
    """Hold the first pass over a prompt.

    Attributes:
        tokens: Of the prompt.
        compute_seconds: C, the pass with everything resident.
        first_token_seconds: TTFT, from the call that starts the load.
        over_best: TTFT over the larger of X and C, below which it cannot be.
    """

    tokens: int
    compute_seconds: float
    first_token_seconds: float
    over_best: float


@dataclass(frozen=True, slots=True)
class OversizedForecast:
    """Hold the passes of a model that does not fit, one token each.

    Attributes:
        slots: What stays and what passes through slots; units are layers, in their order.
        resident_bytes: Of what stays.
        bytes_streamed: In a pass.
        pass_seconds: Of a pass; at batch 1, of a token.
        passes_per_second: The same the other way round.
        compute_seconds: Of a pass with everything resident.
        link_fraction: Bytes streamed per second, over the link's rate.
    """

    slots: SlotPlan
    resident_bytes: int
    bytes_streamed: float
    pass_seconds: float
    passes_per_second: float
    compute_seconds: float
    link_fraction: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Hold what is to be expected of a model on a device.

    Attributes:
        accelerator: The device.
        pipeline: The way of the bytes.
        weights_bytes: Of all weights on the device, each tensor aligned.
        budget_bytes: What the weights may take.
        least_bytes: The smallest budget that works: nothing overlaps.
        least_overlapping_bytes: The smallest with two slots, where the next layer arrives while one computes.
        transfer_seconds: X, all weights at the slowest rate on their way.
        free_tokens: T*, the longest prompt that computes no longer than the weights travel.
        prompts: By length of prompt.
        oversized: Where the weights exceed the budget, else None.
    """

    accelerator: Accelerator
    pipeline: Pipeline
    weights_bytes: int
    budget_bytes: int
    least_bytes: int
    least_overlapping_bytes: int
    transfer_seconds: float
    free_tokens: int
    prompts: tuple[PromptForecast, ...]
    oversized: OversizedForecast | None


def make_forecast(
    plan: LoadPlan,
    device_bytes: Sequence[int],
    costs: Sequence[LayerCost],
    accelerator: Accelerator,
    pipeline: Pipeline,
    *,
    budget_bytes: int,
    tokens: Sequence[int],
) -> Forecast:
    """Simulate the first pass over prompts and, where the weights exceed the budget, passes of one token.

    Args:
        plan: Of the whole load, one group a layer.
        device_bytes: What each layer takes on the device, padding included.
        costs: Of each layer.
        accelerator: The device.
        pipeline: The way of the bytes, to the device.
        budget_bytes: What the weights may take on the device.
        tokens: Lengths of prompts.

    Raises:
        ValueError: The budget is too small for the largest layer.
    """
    groups = reads_by_group(plan)
    slots = plan_slots(device_bytes, range(len(groups)), budget=budget_bytes)
    rate = min(pipeline.link_bytes_per_second, pipeline.storage_bytes_per_second)
    transfer_seconds = sum([sum(reads) for reads in groups]) / rate
    prompts = []
    for count in tokens:
        seconds = _compute(costs, count, accelerator)
        start = simulate_cold_start(groups, seconds, pipeline, slots=slots)
        best = max(transfer_seconds, start.compute_seconds)
        over_best = start.first_token_seconds / best if best else 1.0
        prompts.append(PromptForecast(count, start.compute_seconds, start.first_token_seconds, over_best))
    decode = _compute(costs, 1, accelerator)
    return Forecast(
        accelerator,
        pipeline,
        sum(device_bytes),
        budget_bytes,
        least_device_bytes(device_bytes, slots=1),
        least_device_bytes(device_bytes, slots=2),
        transfer_seconds,
        free_tokens(costs, transfer_seconds, accelerator),
        tuple(prompts),
        _forecast_passes(groups, decode, slots, pipeline) if slots.streamed else None,
    )


def _forecast_passes(
    groups: Sequence[Sequence[int]], compute_seconds: Sequence[float], slots: SlotPlan, pipeline: Pipeline
) -> OversizedForecast:
    steady = simulate_passes(groups, compute_seconds, range(len(groups)), slots, pipeline)
    return OversizedForecast(
        slots,
        slots.device_bytes - slots.slots * slots.slot_bytes,
        steady.bytes_streamed,
        steady.seconds,
        1 / steady.seconds,
        steady.compute_seconds,
        steady.link_fraction,
    )


def free_tokens(costs: Sequence[LayerCost], seconds: float, accelerator: Accelerator) -> int:
    """Return the longest prompt that the layers compute within that time; 0 where one token takes longer.

    Where there is next to nothing to compute: `MOST_TOKENS`.
    """
    low, high = 0, MOST_TOKENS + 1
    while high - low > 1:
        middle = (low + high) // 2
        if sum(_compute(costs, middle, accelerator)) <= seconds:
            low = middle
        else:
            high = middle
    return low


def _compute(costs: Sequence[LayerCost], tokens: int, accelerator: Accelerator) -> list[float]:
    return [cost.seconds(tokens, accelerator) for cost in costs]
