"""Predict what is measured, by the simulation of the schedule fed with this run's own rates and computing times.

Part of `bench._overlap`. Computing times are those of each part, from resident passes with marks, in such proportion
that together they take as long as the resident passes without. Waits are predicted, not measured.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import torch

from ..._checkpoint import open as open_checkpoint
from ..._plan import Copy, SlotPlan, make_plan
from ..._schedule import (
    GROUP_SECONDS,
    Pipeline,
    reads_by_group,
    simulate_cold_start,
    simulate_passes,
)
from ...options import StreamOptions
from ...torch._embedding import LARGEST_PART, TABLE_BYTES
from ...torch._oversized import divide
from ...torch._seats import seat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._engine import ChunkTrace
    from ..._format import TensorInfo
    from ..._models import Subject
    from ._place import Files, Place

__all__ = [
    "PartSeconds",
    "Turns",
    "first_token_seconds",
    "groups_of_parts",
    "make_pipeline",
    "pass_seconds",
    "plan_turns",
    "reads_in_trace",
    "scaled",
]

PartSeconds = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Turns:
    """Hold which parts of a module take turns in slots.

    Attributes:
        paths: Of the modules whose weights are streamed, in the order of a pass.
        reads: The lengths of each one's reads, in bytes.
        slots: Who goes where.
    """

    paths: tuple[str, ...]
    reads: tuple[tuple[int, ...], ...]
    slots: SlotPlan


def make_pipeline(link: Sequence[float], storage: Sequence[float], load: Sequence[float] = (0.0,)) -> Pipeline:
    """Describe the way of the bytes by what was measured, in bytes a second and seconds."""
    options = StreamOptions()
    return Pipeline(
        link_bytes_per_second=fmean(link),
        storage_bytes_per_second=median(storage),
        staging_bytes=options.staging_bytes,
        chunk_bytes=options.chunk_bytes,
        load_seconds=median(load),
        group_seconds=GROUP_SECONDS,
    )


def scaled(passes: Sequence[PartSeconds], seconds: float) -> PartSeconds:
    """Return the median of each part's time, all of them stretched alike so that they add up to `seconds`."""
    columns = zip(*[[took for _, took in parts] for parts in passes], strict=True)
    parts = [(name, median(column)) for (name, _), column in zip(passes[0], columns, strict=True)]
    total = sum(took for _, took in parts)
    return [(name, took * seconds / total) for name, took in parts]


def groups_of_parts(files: Files, subject: Subject, trace: Sequence[ChunkTrace]) -> dict[str, int]:
    """Return the last group that each part waits for; a part whose rows are looked up in the file waits for none."""
    tables = {name for name, part in subject.build().named_modules() if isinstance(part, torch.nn.Embedding)}
    distinct = len(set(subject.prompt("cpu").flatten().tolist()))
    at = {(chunk.source, chunk.offset): chunk.group for chunk in trace}
    begins = sorted(at)
    found: dict[str, int] = {}
    for tensor in files.tensors:
        part = tensor.name.rpartition(".")[0]
        if part in tables and tensor.nbytes >= TABLE_BYTES and distinct * LARGEST_PART <= tensor.shape[0]:
            continue
        found[part] = max(found.get(part, 0), at[_last_at_or_before(begins, (tensor.shard, tensor.end - 1))])
    return found


def first_token_seconds(
    parts: PartSeconds, group_of: Mapping[str, int], reads: Sequence[Sequence[int]], pipeline: Pipeline
) -> float:
    """Predict a streamed first token.

    Args:
        parts: What each part computes, in their order.
        group_of: The group each waits for; those that are not in it wait for nothing.
        reads: The lengths of each group's reads, in bytes, in their order.
        pipeline: The way of the bytes.
    """
    compute = [0.0] * (len(reads) + 1)  # the first before any group
    waited = 0
    for name, seconds in parts:
        waited = max(waited, group_of.get(name, -1) + 1)
        compute[waited] += seconds
    return simulate_cold_start([[], *reads], compute, pipeline).first_token_seconds


def plan_turns(subject: Subject, place: Place, device_memory: int) -> Turns:
    """Divide the module as `stream_module` does."""
    options = StreamOptions(device_memory=device_memory)
    module = subject.build()
    with open_checkpoint(subject.path) as checkpoint:
        seating = seat(module, checkpoint, torch.device(place.torch_device), strict=False)
        division = divide(module, seating, checkpoint, device_memory)
    reads = tuple(_reads([info for _, info in unit.taken], options.chunk_bytes) for unit in division.streamed)
    plan = division.slots
    slots = SlotPlan((), tuple(range(len(reads))), plan.slot_of, plan.slots, plan.slot_bytes, plan.device_bytes)
    return Turns(tuple(unit.path for unit in division.streamed), reads, slots)


def pass_seconds(parts: PartSeconds, turns: Turns, pipeline: Pipeline, *, read_ahead: bool) -> float:
    """Predict one of many passes that follow each other.

    Args:
        parts: What each part computes, in their order.
        turns: Which of them are streamed.
        pipeline: The way of the bytes.
        read_ahead: Whether reads begin before the slot is free; see `simulate_passes`.
    """
    compute = [0.0] * len(turns.paths)
    order: list[int] = []
    for name, seconds in parts:
        unit = next((n for n, path in enumerate(turns.paths) if name == path or name.startswith(f"{path}.")), None)
        if unit is None:  # resident: a unit of its own, without reads
            unit = len(compute)
            compute.append(0.0)
        compute[unit] += seconds
        if not order or order[-1] != unit:
            order.append(unit)
    units = [*turns.reads, *([()] * (len(compute) - len(turns.reads)))]
    return simulate_passes(units, compute, order, turns.slots, pipeline, read_ahead=read_ahead).seconds


def reads_in_trace(trace: Sequence[ChunkTrace]) -> list[list[int]]:
    """Return the lengths in bytes of the reads of each group that was loaded."""
    reads: list[list[int]] = [[] for _ in range(1 + max((chunk.group for chunk in trace), default=-1))]
    for chunk in sorted(trace, key=lambda chunk: (chunk.source, chunk.offset)):
        reads[chunk.group].append(chunk.nbytes)
    return reads


def _reads(infos: Sequence[TensorInfo], chunk_bytes: int) -> tuple[int, ...]:
    copies, address = [], 0
    for info in infos:
        copies.append(Copy(info.shard, info.start, info.end, address))
        address += info.nbytes
    return tuple(reads_by_group(make_plan([copies], chunk_bytes=chunk_bytes))[0])


def _last_at_or_before(begins: Sequence[tuple[int, int]], place: tuple[int, int]) -> tuple[int, int]:
    return begins[max(bisect_right(begins, place) - 1, 0)]
