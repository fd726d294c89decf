"""Passes of a model that exceeds its device: half of its layers pass through slots.

Part of `bench._overlap`; needs torch. Two regimes: one token a pass, where the link is what there is to keep busy, and
a prompt that computes for longer than the bytes travel, where nothing should be left of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from statistics import median
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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn

    from ..._engine import RotationStats
    from ..._models import Subject
    from ._cold import ColdCourse
    from ._passes import Pass

__all__ = ["DecodeRound", "Streams", "memory_for_half", "run_oversized", "time_decode"]

_PART_PASSES = 2
_DECODE_PASSES = 4  # in a row, timed together: the link is kept busy from each into the next


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
class _Tally:
    """Gather the rounds."""

    course: ColdCourse
    one: Subject  # prompts of one token, and of the compute-bound length
    prompt: Subject
    expected: dict[int, torch.Tensor]
    decode: list[DecodeRound] = field(default_factory=list)
    one_resident: list[float] = field(default_factory=list)
    prompt_streamed: list[float] = field(default_factory=list)
    prompt_resident: list[float] = field(default_factory=list)

    def resident(self, subject: Subject) -> float:
        return resident_pass(subject, self.course.place, self.course.resident).seconds

    def check(self, output: torch.Tensor, tokens: int) -> None:
        if not same_bits(output, self.expected[tokens]):
            raise BenchError("an oversized pass gave another output than the model loaded plainly")


def run_oversized(
    course: ColdCourse, tokens: int, repeat: int, progress: Callable[[], object] = lambda: None
) -> OversizedCase:
    """Measure both regimes `repeat` times.

    Args:
        course: What is loaded, and the same module resident.
        tokens: Length of the prompt that is to be compute-bound.
        repeat: Rounds.
        progress: Called after each.

    Raises:
        BenchError: An output differed, or nothing was streamed.
    """
    place, budget = course.place, memory_for_half(course)
    one, prompt = (replace(course.subject, tokens=count) for count in (1, tokens))
    expected = {subject.tokens: resident_pass(subject, place, course.resident).output for subject in (one, prompt)}
    tally = _Tally(course, one, prompt, expected)
    place.settle(budget)
    link = [place.link_rate()]
    module = one.build()
    with (
        open_checkpoint(one.path) as checkpoint,
        CopyEngine(place.device, StreamOptions(device_memory=budget)) as engine,
        stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine) as loading,
    ):
        loading.wait()
        for _ in range(repeat):
            _run_round(tally, module, loading)
            progress()
        stats, streamed_bytes = _stats(loading), loading.streamed_bytes
    link.append(place.link_rate())
    return OversizedCase(
        device_memory=budget,
        streamed_bytes=streamed_bytes,
        units=stats.units,
        slots=stats.slots,
        demanded_fills=stats.demanded_fills,
        wasted_fills=stats.wasted_fills,
        link_bytes_per_second=tuple(link),
        decode_passes=_DECODE_PASSES,
        decode_seconds=tuple(found.seconds for found in tally.decode),
        decode_bytes=tuple(found.nbytes for found in tally.decode),
        tokens=tokens,
        prompt_seconds=tuple(tally.prompt_streamed),
        resident_seconds=tuple(tally.prompt_resident),
        **_predictions(tally, budget, link),
    )


def _run_round(tally: _Tally, module: nn.Module, loading: Streams) -> None:
    place, one, prompt = tally.course.place, tally.one, tally.prompt

    def streamed(subject: Subject) -> Pass:
        found = resident_pass(subject, place, module)
        tally.check(found.output, subject.tokens)
        return found

    tally.one_resident.append(tally.resident(one))
    streamed(one)  # after a pause the slots are full, and the first pass is faster than the link
    tally.decode.append(time_decode(lambda: resident_pass(one, place, module).output, loading, _DECODE_PASSES))
    for output in tally.decode[-1].outputs:
        tally.check(output, one.tokens)
    if len(tally.prompt_resident) % 2:  # whoever comes first takes turns
        tally.prompt_resident.append(tally.resident(prompt))
        streamed(one)
    tally.prompt_streamed.append(streamed(prompt).seconds)
    if len(tally.prompt_resident) < len(tally.prompt_streamed):
        tally.prompt_resident.append(tally.resident(prompt))


def _predictions(tally: _Tally, budget: int, link: Sequence[float]) -> dict[str, float]:
    course = tally.course
    turns = plan_turns(tally.one, course.place, budget)
    pipeline = make_pipeline(link, [course.files.storage_rate() for _ in range(3)])

    def predicted(subject: Subject, seconds: Sequence[float]) -> float:
        marked = (resident_pass(subject, course.place, course.resident, by_part=True) for _ in range(_PART_PASSES))
        parts = scaled([found.part_seconds for found in marked], median(seconds))
        return pass_seconds(parts, turns, pipeline, read_ahead=not course.place.on_host)

    return {
        "predicted_decode_seconds": predicted(tally.one, tally.one_resident),
        "predicted_prompt_seconds": predicted(tally.prompt, tally.prompt_resident),
    }


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
