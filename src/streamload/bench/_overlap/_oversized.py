"""Passes of a model that exceeds its device: half of its layers pass through slots.

Part of `bench._overlap`; needs torch. Two regimes: one token a pass, where the link is what there is to keep busy, and
a prompt that computes for longer than the bytes travel, where nothing should be left of them: many short pairs, over a
simulated link that is as fast as that takes.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Protocol

from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine
from ...options import StreamOptions
from ...torch import stream_module
from .._result import BenchError
from ._cold import same_bits
from ._passes import resident_pass
from ._predict import make_pipeline, pass_seconds, plan_turns, scaled
from ._result import OversizedCase
from ._steady import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import nn

    from ..._engine import RotationStats
    from ...torch import ModuleStream
    from ._cold import ColdCourse
    from ._predict import PartSeconds

__all__ = ["DecodeRound", "Streams", "memory_for_half", "run_oversized", "time_decode"]

_PART_PASSES = 3
_COMPUTE_PASSES, _COMPUTE_TO_MOVE = 3, 2.5  # on the host, the second link follows from the first
_DECODE_PASSES = 3  # in a row, timed together: the link is kept busy from each into the next


class Streams(Protocol):
    """What of a `ModuleStream` is asked: how much was streamed."""

    def rotation_stats(self) -> RotationStats | None:
        """Return what was streamed so far."""


@dataclass(frozen=True, slots=True)
class DecodeRound:
    """Hold passes of one token that followed each other.

    Attributes:
        seconds: Of all of them.
        nbytes: Put into slots meanwhile.
        outputs: Of each, on the host.
    """

    seconds: float
    nbytes: int
    outputs: list[torch.Tensor] = field(default_factory=list)


def memory_for_half(course: ColdCourse) -> int:
    """Return a budget that holds everything but half of the bytes of the numbered layers."""
    numbered = [t.nbytes for t in course.files.tensors if course.files.layer_of[t.name].rpartition(".")[2].isdigit()]
    return sum(tensor.nbytes for tensor in course.files.tensors) - sum(numbered) // 2


@dataclass(slots=True)
class _LinkBound:
    """Gather the rounds of passes of one token."""

    link: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    decode: list[DecodeRound] = field(default_factory=list)


@dataclass(slots=True)
class _ComputeBound:
    """Gather the pairs of passes over a prompt."""

    link: list[float] = field(default_factory=list)
    pairs: list[tuple[float, float]] = field(default_factory=list)


def run_oversized(
    course: ColdCourse, tokens: int, repeat: int, pairs: int, progress: Callable[[], object] = lambda: None
) -> OversizedCase:
    """Measure both regimes.

    Args:
        course: What is loaded, and the same module resident.
        tokens: Length of the prompt that is to be compute-bound.
        repeat: Rounds of passes of one token.
        pairs: Of a streamed and a resident pass over the prompt.
        progress: Called after each.

    Raises:
        BenchError: An output differed, or nothing was streamed.
    """
    budget = memory_for_half(course)
    one, prompt = (replace(course, subject=replace(course.subject, tokens=count)) for count in (1, tokens))
    turns = plan_turns(one.subject, one.place, budget)
    one_parts, prompt_parts = _parts(one), _parts(prompt)
    if course.place.on_host:
        compute = median(_resident(prompt)() for _ in range(_COMPUTE_PASSES))
        streamed = sum(sum(reads) for reads in turns.reads)
        prompt = replace(prompt, place=course.place.paced_at(float(f"{_COMPUTE_TO_MOVE * streamed / compute:.2e}")))
    found, stats, streamed_bytes = _link_bound(one, budget, repeat, progress)
    beside = _compute_bound(prompt, budget, pairs, progress)
    storage = [course.files.storage_rate() for _ in range(3)]

    def predicted(parts: Sequence[PartSeconds], compute: float, link: float) -> float:
        pipeline = make_pipeline([link], storage)
        return pass_seconds(scaled(parts, compute), turns, pipeline, read_ahead=not course.place.on_host)

    return OversizedCase(
        device_memory=budget,
        streamed_bytes=streamed_bytes,
        units=stats.units,
        slots=stats.slots,
        demanded_fills=stats.demanded_fills,
        wasted_fills=stats.wasted_fills,
        link_bytes_per_second=tuple(found.link),
        decode_passes=_DECODE_PASSES,
        decode_seconds=tuple(each.seconds for each in found.decode),
        decode_bytes=tuple(each.nbytes for each in found.decode),
        tokens=tokens,
        prompt_link_bytes_per_second=tuple(beside.link),
        prompt_seconds=tuple(streamed for streamed, _ in beside.pairs),
        resident_seconds=tuple(resident for _, resident in beside.pairs),
        predicted_decode_seconds=tuple(predicted(one_parts, compute, fmean(found.link)) for compute in found.resident),
        predicted_prompt_seconds=tuple(
            predicted(prompt_parts, compute, fmean(beside.link)) for _, compute in beside.pairs
        ),
    )


@contextmanager
def _opened(course: ColdCourse, budget: int) -> Iterator[tuple[nn.Module, ModuleStream]]:
    """Stream the module through slots; its resident part is there."""
    subject, place = course.subject, course.place
    place.settle(budget)
    module = subject.build()
    with (
        open_checkpoint(subject.path) as checkpoint,
        CopyEngine(place.device, StreamOptions(device_memory=budget)) as engine,
        stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine) as loading,
    ):
        loading.wait()
        yield module, loading


def _link_bound(
    course: ColdCourse, budget: int, repeat: int, progress: Callable[[], object]
) -> tuple[_LinkBound, RotationStats, int]:
    subject, place, found = course.subject, course.place, _LinkBound()
    expected = resident_pass(subject, place, course.resident).output
    found.link.append(place.link_rate())  # not between: what is prefetched after a pass would slow it down
    with _opened(course, budget) as (module, loading):
        for _ in range(repeat):
            found.resident.append(_resident(course)())
            # After a pause the slots are full, and the first pass is faster than the link.
            _check(resident_pass(subject, place, module).output, expected)
            found.decode.append(
                time_decode(lambda: resident_pass(subject, place, module).output, loading, _DECODE_PASSES)
            )
            for output in found.decode[-1].outputs:
                _check(output, expected)
            progress()
        stats, streamed_bytes = _stats(loading), loading.streamed_bytes
    found.link.append(place.link_rate())
    return found, stats, streamed_bytes


def _compute_bound(course: ColdCourse, budget: int, pairs: int, progress: Callable[[], object]) -> _ComputeBound:
    subject, place, found = course.subject, course.place, _ComputeBound()
    expected = resident_pass(subject, place, course.resident).output
    found.link.append(place.link_rate())
    with _opened(course, budget) as (module, _):

        def streamed() -> float:
            each = resident_pass(subject, place, module)
            _check(each.output, expected)
            return each.seconds

        streamed()
        for number in range(pairs):
            found.pairs.append(in_turn(number, streamed, _resident(course)))
            progress()
    found.link.append(place.link_rate())
    return found


def _resident(course: ColdCourse) -> Callable[[], float]:
    return lambda: resident_pass(course.subject, course.place, course.resident).seconds


def _parts(course: ColdCourse) -> list[PartSeconds]:
    passes = (resident_pass(course.subject, course.place, course.resident, by_part=True) for _ in range(_PART_PASSES))
    return [found.part_seconds for found in passes]


def _check(output: torch.Tensor, expected: torch.Tensor) -> None:
    if not same_bits(output, expected):
        raise BenchError("an oversized pass gave another output than the model loaded plainly")


def time_decode(run_pass: Callable[[], torch.Tensor], loading: Streams, passes: int) -> DecodeRound:
    """Run passes one after the other, and count the bytes that were put into slots meanwhile.

    Raises:
        BenchError: Nothing was streamed.
    """
    before, began = _stats(loading).bytes_streamed, time.perf_counter()
    outputs = [run_pass() for _ in range(passes)]
    seconds, after = time.perf_counter() - began, _stats(loading).bytes_streamed
    if after <= before:
        raise BenchError("the passes of an oversized model streamed no bytes")
    return DecodeRound(seconds, after - before, outputs)


def _stats(loading: Streams) -> RotationStats:
    stats = loading.rotation_stats()
    if stats is None:
        raise BenchError("nothing of the model passes through slots, though its memory was limited")
    return stats
