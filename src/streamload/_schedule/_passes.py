"""Simulate the passes of a model that does not fit: some units stay, the others pass through slots again and again.

Part of `_schedule`; pure. A fill is followed as a whole: where reading and copying of one may begin gives where they
end. Fills go in the order in which units are needed, into the next pass and on; reads may run ahead of the slot as far
as staging memory goes, copies may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._pipeline import host_fill, measure_fill

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from .._plan import SlotPlan
    from ._pipeline import Fill, Pipeline


@dataclass(frozen=True, slots=True)
class SteadyPass:
    """Hold one pass as it is once the first ones are over; a mean.

    Attributes:
        seconds: From its start to that of the next.
        compute_seconds: Of it, what is computed.
        stall_seconds: Of it, what is spent waiting for bytes.
        bytes_streamed: Bytes put into slots.
        fills: Units put into slots.
        link_fraction: Bytes streamed per second, over the link's rate.
    """

    seconds: float
    compute_seconds: float
    stall_seconds: float
    bytes_streamed: float
    fills: float
    link_fraction: float


def simulate_passes(
    units: Sequence[Sequence[int]],
    compute_seconds: Sequence[float],
    order: Sequence[int],
    plan: SlotPlan,
    pipeline: Pipeline,
    *,
    on_host: Collection[int] = (),
    passes: int = 100,
) -> SteadyPass:
    """Simulate passes that follow each other without a pause; the second half of them is reported.

    Args:
        units: Per unit the lengths of its reads in bytes; those of resident units do not matter.
        compute_seconds: What each unit's module computes when it is used.
        order: Units in the order of a pass; one may be used several times.
        plan: Which units stay, and the slots of the others.
        pipeline: The way of the bytes. `load_seconds` is of no meaning here.
        on_host: Units whose bytes lie in page-locked host memory and are not read.
        passes: How many to simulate.

    Raises:
        ValueError: There are not as many computing times as units, or fewer than two passes.
    """
    if len(units) != len(compute_seconds) or passes < 2:
        raise ValueError(
            f"expected a computing time for each of {len(units)} units and at least two passes, got "
            f"{len(compute_seconds)} and {passes}"
        )
    slot_of = dict(zip(plan.streamed, plan.slot_of, strict=True))
    fills = _measure(units, slot_of, on_host, pipeline)
    holds = [-1] * plan.slots
    released, ready = [0.0] * plan.slots, [0.0] * plan.slots
    copied = read = freed = computed = 0.0
    begun = stalled = 0.0
    nbytes = count = 0
    for number in range(passes):
        if number == passes // 2:
            begun, stalled, nbytes, count = computed, 0.0, 0, 0
        for unit in order:
            slot = slot_of.get(unit)
            if slot is None:
                computed += compute_seconds[unit]
                continue
            if holds[slot] != unit:
                fill = fills[unit]
                gate = max(copied, released[slot])
                begin = max(read, freed)
                copied = max(gate + fill.copied_from_copying, begin + fill.copied_from_reading)
                read = max(gate + fill.read_from_copying, begin + fill.read_from_reading, read)
                freed = max(freed, copied - fill.freed_before)
                holds[slot], ready[slot] = unit, copied + pipeline.group_seconds
                nbytes += fill.nbytes
                count += 1
            start = max(computed, ready[slot])
            stalled += start - computed
            computed = released[slot] = start + compute_seconds[unit]
    measured = passes - passes // 2
    seconds = (computed - begun) / measured
    rate = nbytes / measured / seconds if seconds else 0.0
    return SteadyPass(
        seconds,
        sum([compute_seconds[unit] for unit in order]),
        stalled / measured,
        nbytes / measured,
        count / measured,
        rate / pipeline.link_bytes_per_second,
    )


def _measure(
    units: Sequence[Sequence[int]], streamed: Collection[int], on_host: Collection[int], pipeline: Pipeline
) -> dict[int, Fill]:
    """Return the fill of each streamed unit; units with the same reads are measured once."""
    known: dict[tuple[int, ...], Fill] = {}
    fills: dict[int, Fill] = {}
    for unit in streamed:
        if unit in on_host:
            fills[unit] = host_fill(sum(units[unit]), pipeline)
            continue
        reads = tuple(units[unit])
        if reads not in known:
            known[reads] = measure_fill(reads, pipeline)
        fills[unit] = known[reads]
    return fills
