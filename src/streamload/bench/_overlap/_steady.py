"""The same model once it is there: streamed against loaded plainly.

Part of `bench._overlap`; needs torch. Pairs of passes, and others of two models loaded plainly. Where a model lies in
the host's memory changes its speed by a few per cent, for as long as it lies there. So on the host both are built anew
many times, each giving one sample, the median of its pairs; and those loaded plainly are moved into memory such as
streamed ones get, whose huge pages alone make a pass some 2 % faster. What is left is what the load left.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from ..._models import load_plainly
from ...torch._memory import place as place_tensors
from .._result import BenchError
from ._cold import same_bits
from ._passes import resident_pass, streamed_pass
from ._place import open_files
from ._result import SteadyState

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..._models import Subject
    from ._place import Place

__all__ = ["SteadyCourse", "in_turn", "run_steady"]


@dataclass(frozen=True, slots=True)
class SteadyCourse:
    """Hold what passes are compared on.

    Attributes:
        subject: What computes, for real.
        place: Where.
        plain: It, loaded plainly; None loads it anew for each sample.
        models: How often the streamed one is built.
        pairs: How many pairs of passes each of them gives.
    """

    subject: Subject
    place: Place
    plain: nn.Module | None
    models: int
    pairs: int


def run_steady(course: SteadyCourse, progress: Callable[[], object] = lambda: None) -> SteadyState:
    """Run pairs of a streamed pass and a plain one, by turns the other way round; after every other, of two plain ones.

    Args:
        course: What to run. One model gives one sample a pair, several give one each.
        progress: Called after each model.

    Raises:
        BenchError: An output differed.
    """
    streamed_ratios: list[float] = []
    control_ratios: list[float] = []
    seconds: list[float] = []
    for _ in range(course.models):
        streamed, control, took = _run_model(course)
        streamed_ratios += streamed if course.models == 1 else [median(streamed)]
        control_ratios += control if course.models == 1 else [median(control)]
        seconds.append(took)
        progress()
    return SteadyState(
        model=course.subject.title,
        tokens=course.subject.tokens,
        models=course.models,
        pairs=course.pairs,
        plain_seconds=median(seconds),
        ratios=tuple(streamed_ratios),
        controls=tuple(control_ratios),
    )


def _run_model(course: SteadyCourse) -> tuple[list[float], list[float], float]:
    """Return the ratio of every pair, that of every pair of plain ones, and the seconds of a plain pass."""
    subject, place = course.subject, course.place
    streamed = streamed_pass(subject, place)[1]
    control = _load_plainly(subject, place)
    plain = _load_plainly(subject, place) if course.plain is None else course.plain
    outputs = [resident_pass(subject, place, module).output for module in (plain, streamed, control)]
    if not all(same_bits(output, outputs[0]) for output in outputs):
        raise BenchError("the streamed model gave another output than the one loaded plainly")
    place.settle(subject.nbytes)
    run_streamed, run_plain, run_control = (_timed(subject, place, each) for each in (streamed, plain, control))
    streamed_pairs, control_pairs = [], []
    for number in range(course.pairs):
        streamed_pairs.append(in_turn(number, run_streamed, run_plain))
        if number % 2:
            control_pairs.append(in_turn(number // 2, run_control, run_plain))
    ratios = [[over / under for over, under in pairs] for pairs in (streamed_pairs, control_pairs)]
    return ratios[0], ratios[1], median(seconds for _, seconds in streamed_pairs)


def _load_plainly(subject: Subject, place: Place) -> nn.Module:
    """Load the model without us, and on the host move its weights to memory such as streamed ones get."""
    module = load_plainly(subject, place.torch_device)
    if place.on_host:
        held = dict(module.named_parameters(remove_duplicate=False))
        infos = [info for info in open_files(subject.path).tensors if info.name in held]
        for info, memory in zip(infos, place_tensors(infos, torch.device("cpu")).tensors, strict=True):
            held[info.name].data = memory.copy_(held[info.name].data)
    return module


def in_turn(number: int, first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """Run two passes right after each other, in every other pair the other way round: A B, B A, A B and so on."""
    if number % 2:
        seconds = second()
        return first(), seconds
    return first(), second()


def _timed(subject: Subject, place: Place, module: nn.Module) -> Callable[[], float]:
    return lambda: resident_pass(subject, place, module).seconds
