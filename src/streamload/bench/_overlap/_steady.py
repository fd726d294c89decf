"""The same model once it is there: streamed against loaded plainly.

Part of `bench._overlap`; needs torch. Three modules take turns, two of them loaded plainly: what lies between those
two is the noise of memory and machine.
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
    from ._cold import ColdCourse

__all__ = ["run_steady"]


def run_steady(course: ColdCourse, tokens: int, repeat: int) -> SteadyState:
    """Run each of the three `repeat` times, whoever comes first taking turns.

    Raises:
        BenchError: An output differed.
    """
    subject, place = replace(course.subject, tokens=tokens), course.place
    modules = {
        "plain": course.resident,
        "streamed": streamed_pass(subject, place)[1],
        "control": load_plainly(subject, place.torch_device),
    }
    outputs = {name: resident_pass(subject, place, module).output for name, module in modules.items()}
    if not all(same_bits(output, outputs["plain"]) for output in outputs.values()):
        raise BenchError("the streamed model gave another output than the one loaded plainly")
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    names = list(modules)
    place.settle(subject.nbytes)
    for number in range(repeat):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            seconds[name].append(resident_pass(subject, place, modules[name]).seconds)
    return SteadyState(
        tokens=tokens,
        plain_seconds=tuple(seconds["plain"]),
        streamed_seconds=tuple(seconds["streamed"]),
        control_seconds=tuple(seconds["control"]),
    )
