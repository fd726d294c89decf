"""Passes of a model that exceeds its device: half of its layers pass through slots.

Part of `bench._overlap`; needs torch. Two regimes: one token a pass, where the link is what there is to keep busy, and
a prompt that computes for longer than the bytes travel, where nothing should be left of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine
from ...options import StreamOptions
from ...torch import stream_module
from .._result import BenchError
from ._cold import same_bits
from ._passes import resident_pass
from ._result import OversizedCase

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ..._engine import RotationStats
    from ..._models import Subject
    from ._cold import ColdCourse
    from ._passes import Pass

__all__ = ["DecodeRound", "Streams", "memory_for_half", "run_oversized", "time_decode"]

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
    place = course.place
    one, prompt = (replace(course.subject, tokens=count) for count in (1, tokens))
    expected = {count.tokens: resident_pass(count, place, course.resident).output for count in (one, prompt)}
    budget = memory_for_half(course)
    place.settle(budget)
    link = [place.link_rate()]
    decode: list[DecodeRound] = []
    prompt_seconds: list[float] = []
    resident_seconds: list[float] = []
    module = one.build()
    with (
        open_checkpoint(one.path) as checkpoint,
        CopyEngine(place.device, StreamOptions(device_memory=budget)) as engine,
        stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine) as loading,
    ):

        def streamed(subject: Subject) -> Pass:
            found = resident_pass(subject, place, module)
            if not same_bits(found.output, expected[subject.tokens]):
                raise BenchError("an oversized pass gave another output than the model loaded plainly")
            return found

        loading.wait()
        for _ in range(repeat):
            streamed(one)  # what is idle after a pause is not the link's rate
            decode.append(time_decode(lambda: resident_pass(one, place, module).output, loading, _DECODE_PASSES))
            if not all(same_bits(output, expected[1]) for output in decode[-1].outputs):
                raise BenchError("an oversized pass gave another output than the model loaded plainly")
            before = resident_pass(prompt, place, course.resident).seconds
            streamed(one)
            prompt_seconds.append(streamed(prompt).seconds)
            resident_seconds.append(fmean((before, resident_pass(prompt, place, course.resident).seconds)))
            progress()
        stats = _stats(loading)
        streamed_bytes = loading.streamed_bytes
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
        decode_seconds=tuple(found.seconds for found in decode),
        decode_bytes=tuple(found.nbytes for found in decode),
        tokens=tokens,
        prompt_seconds=tuple(prompt_seconds),
        resident_seconds=tuple(resident_seconds),
    )


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
