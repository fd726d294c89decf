"""Simulate a cold start: the first forward pass runs while later layers still arrive.

Part of `_schedule`; pure. Every read is followed on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._plan import SlotPlan
    from ._pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Hold what happened when, in seconds from the call that started the load.

    Attributes:
        first_token_seconds: When the last layer has computed.
        transfer_seconds: When the last byte was on the device.
        compute_seconds: What all layers compute, waits not counted.
        ready_seconds: When each layer could have begun, for all that its bytes mattered.
        start_seconds: When each layer began.
        stalls: How long each layer's start was put off by its bytes, in seconds.
    """

    first_token_seconds: float
    transfer_seconds: float
    compute_seconds: float
    ready_seconds: tuple[float, ...]
    start_seconds: tuple[float, ...]
    stalls: tuple[float, ...]


def simulate_cold_start(
    groups: Sequence[Sequence[int]],
    compute_seconds: Sequence[float],
    pipeline: Pipeline,
    *,
    slots: SlotPlan | None = None,
) -> ColdStart:
    """Simulate the load of groups in their order, and a pass that computes them in the same order.

    Args:
        groups: Per group the lengths of its reads in bytes, as `reads_by_group` gives them. A group without reads need
            not be waited for.
        compute_seconds: What each group's layer computes.
        pipeline: The way of the bytes.
        slots: Which groups pass through slots, in the order of the groups: the copies of one begin when the one before
            in its slot has computed. None: everything has its place.

    Raises:
        ValueError: There are not as many computing times as groups.
    """
    slot_of = {} if slots is None else dict(zip(slots.streamed, slots.slot_of, strict=True))
    released = [0.0] * (0 if slots is None else slots.slots)
    per_read, per_copy = 1 / pipeline.storage_bytes_per_second, 1 / pipeline.link_bytes_per_second
    freed = [0.0] * max(min(pipeline.buffers, sum([len(reads) for reads in groups])), 1)
    at = 0
    read = copied = pipeline.load_seconds
    computed = 0.0
    ready_seconds, start_seconds, stalls = [], [], []
    for group, (reads, seconds) in enumerate(zip(groups, compute_seconds, strict=True)):
        slot = slot_of.get(group)
        if slot is not None:
            copied = max(copied, released[slot])
        for nbytes in reads:
            read = max(read, freed[at]) + nbytes * per_read
            copied = max(copied, read) + nbytes * per_copy
            freed[at] = copied
            at = (at + 1) % len(freed)
        ready = copied + pipeline.group_seconds if reads else 0.0
        start = max(computed, ready)
        ready_seconds.append(ready)
        start_seconds.append(start)
        stalls.append(start - computed)
        computed = start + seconds
        if slot is not None:
            released[slot] = computed
    return ColdStart(computed, copied, sum(compute_seconds), tuple(ready_seconds), tuple(start_seconds), tuple(stalls))
