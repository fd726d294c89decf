"""Simulate the passes of a model that does not fit: some units stay, the others pass through slots again and again.

Part of `_schedule`; pure. A fill is followed as a whole: where reading and copying of one may begin gives where they
end. Fills go in the order in which units are needed, into the next pass and on; copies wait until the slot is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._pipeline import host_fill, measure_fill

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
    read_ahead: bool = True,
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
        read_ahead: Whether reads may begin before the slot is free, as far as staging memory goes: so on a GPU, where
            releases are enqueued ahead of the work they stand behind. On the host device reads wait for them.
        passes: How many to simulate.

    Raises:
        ValueError: There are not as many computing times as units, or fewer than two passes.
    """
    if len(units) != len(compute_seconds) or passes < 2:
        raise ValueError(
            f"expected a computing time for each of {len(units)} units and at least two passes, got "
            f"{len(compute_seconds)} and {passes}"
        )
    rotation = _Rotation(plan, _measure(units, plan.streamed, on_host, pipeline), pipeline, read_ahead)
    computed = begun = 0.0
    for number in range(passes):
        if number == passes // 2:
            begun = computed
            rotation.forget_sums()
        for unit in order:
            slot = rotation.slot_of.get(unit)
            if slot is None:
                computed += compute_seconds[unit]
            else:
                computed = rotation.use(unit, slot, computed, compute_seconds[unit])
    measured = passes - passes // 2
    seconds = (computed - begun) / measured
    rate = rotation.nbytes / measured / seconds if seconds else 0.0
    return SteadyPass(
        seconds,
        sum([compute_seconds[unit] for unit in order]),
        rotation.stall_seconds / measured,
        rotation.nbytes / measured,
        rotation.fills / measured,
        rate / pipeline.link_bytes_per_second,
    )


class _Rotation:
    """Hold what is in the slots, and until when slots, link, storage and buffers are busy."""

    def __init__(self, plan: SlotPlan, fills: Mapping[int, Fill], pipeline: Pipeline, read_ahead: bool) -> None:
        self.slot_of = dict(zip(plan.streamed, plan.slot_of, strict=True))
        self._fill_of = fills
        self._group_seconds = pipeline.group_seconds
        self._read_ahead = read_ahead
        self._holds = [-1] * plan.slots
        self._ready = [0.0] * plan.slots
        self._released = [0.0] * plan.slots
        self._copied = self._read = self._freed = 0.0
        self.forget_sums()

    def forget_sums(self) -> None:
        """Begin to count anew."""
        self.nbytes = self.fills = 0
        self.stall_seconds = 0.0

    def use(self, unit: int, slot: int, now: float, seconds: float) -> float:
        """Compute a unit for `seconds`, filling its slot before if need be, and return when it has."""
        if self._holds[slot] != unit:
            self._fill(unit, slot)
        start = max(now, self._ready[slot])
        self.stall_seconds += start - now
        self._released[slot] = start + seconds
        return start + seconds

    def _fill(self, unit: int, slot: int) -> None:
        fill = self._fill_of[unit]
        free = self._released[slot]
        copying = max(self._copied, free)
        reading = max(self._read, self._freed, 0.0 if self._read_ahead else free)
        self._copied = max(copying + fill.copied_from_copying, reading + fill.copied_from_reading)
        self._read = max(self._read, copying + fill.read_from_copying, reading + fill.read_from_reading)
        self._freed = max(self._freed, self._copied - fill.freed_before)
        self._holds[slot], self._ready[slot] = unit, self._copied + self._group_seconds
        self.nbytes += fill.nbytes
        self.fills += 1


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
