"""The same model once it is there: streamed against loaded plainly.

Part of `bench._overlap`; needs torch. Pairs of passes, and others of two models loaded plainly: what lies between
those two is the noise of memory and machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..._models import load_plainly
from .._result import BenchError
from ._cold import same_bits
from ._passes import resident_pass, streamed_pass
from ._result import SteadyState

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..._models import Subject
    from ._cold import ColdCourse
    from ._place import Place

__all__ = ["in_turn", "run_steady"]


def run_steady(course: ColdCourse, tokens: int, pairs: int) -> SteadyState:
    """Run pairs of a streamed pass and a plain one, by turns the other way round; after every other, of two plain ones.

    Raises:
        BenchError: An output differed.
    """
    subject, place = replace(course.subject, tokens=tokens), course.place
    plain, streamed = course.resident, streamed_pass(subject, place)[1]
    control = load_plainly(subject, place.torch_device)
    outputs = [resident_pass(subject, place, module).output for module in (plain, streamed, control)]
    if not all(same_bits(output, outputs[0]) for output in outputs):
        raise BenchError("the streamed model gave another output than the one loaded plainly")
    place.settle(subject.nbytes)
    streamed_pairs, control_pairs = [], []
    for number in range(pairs):
        streamed_pairs.append(in_turn(number, *(_timed(subject, place, module) for module in (streamed, plain))))
        if number % 2:
            control_pairs.append(in_turn(number // 2, *(_timed(subject, place, module) for module in (control, plain))))
    return SteadyState(
        tokens=tokens,
        streamed_seconds=tuple(seconds for seconds, _ in streamed_pairs),
        plain_seconds=tuple(seconds for _, seconds in streamed_pairs),
        control_seconds=tuple(seconds for seconds, _ in control_pairs),
        control_plain_seconds=tuple(seconds for _, seconds in control_pairs),
    )


def in_turn(number: int, first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """Run two passes right after each other, in every other pair the other way round: A B, B A, A B and so on."""
    if number % 2:
        seconds = second()
        return first(), seconds
    return first(), second()


def _timed(subject: Subject, place: Place, module: nn.Module) -> Callable[[], float]:
    return lambda: resident_pass(subject, place, module).seconds
