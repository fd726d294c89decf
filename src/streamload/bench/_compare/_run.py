"""Run the comparison: every loader by turns, in each round with the files in the page cache and without.

Part of `bench._compare`; needs torch and safetensors. What a loader leaves is new memory, its own: tensors that one can
keep, whatever becomes of the files. Each round has both states, so that a figure's rounds are spread over all the time
that the benchmark takes: a machine's rates drift within a minute.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ... import _native
from ..._engine import open_device
from ..._machine import machine_facts
from .._contestants import contestants
from .._course import open_course
from .._engine import make_own_checkpoint
from .._result import BenchError, cache_state
from .._rounds import run_rounds
from .._surroundings import Surroundings
from .._traced import traced_loads
from ._result import CompareBench, CompareSide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._course import Course
    from .._progress import BenchProgress
    from .._rounds import Contestant
    from .._settings import CompareSettings

__all__ = ["run"]

_NEW_MEMORY = ", new memory"


def run(settings: CompareSettings, progress: BenchProgress) -> CompareBench:
    """Do what `run_compare_bench` says."""
    try:
        open_device(settings.device)
    except ValueError as error:
        raise BenchError(str(error)) from error
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-compare-")))
        path = settings.path
        if path is None:
            path = make_own_checkpoint(scratch / "checkpoint", None, progress)
        # On a GPU nobody fills memory that is there, and there may be no room for the weights twice.
        memory = "cpu" if settings.device == "cpu" else "meta"
        course = replace(open_course(path, memory, scratch), torch_device=settings.device)
        states = ("cold",) if settings.cold else ("warm", "cold")
        sides = _race(course, settings.repeat, states, progress)
        timelines = traced_loads(course, cold=True, new_memory=True)
    return CompareBench(
        nbytes=course.nbytes,
        tensors=len(course.existing),
        device=settings.device,
        rounds=settings.repeat,
        sides=sides,
        peer_settings=settings.peer_settings,
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
        timelines=timelines,
    )


def entered(course: Course, *, cold: bool) -> list[Contestant]:
    """List who takes part: ceilings, and whoever makes new tensors."""
    return [
        replace(one, name=one.name.removesuffix(_NEW_MEMORY))
        for one in contestants(course, cold=cold)
        if one.target == "new" or (one.role == "ceiling" and one.target != "ring")
    ]


def _race(course: Course, repeat: int, states: Sequence[str], progress: BenchProgress) -> dict[str, CompareSide]:
    cached: dict[str, list[float | None]] = {when: [] for when in states}
    with Surroundings(course.torch_device, course.nbytes) as around:
        everyone = {
            when: around.in_state(_named(course, when), course, cold=when == "cold", cached=cached[when])
            for when in states
        }
        runs = sum(map(len, everyone.values()))
        with progress.stage("measuring", (repeat + 1) * runs, "run") as advance:
            flat = [one for when in states for one in everyone[when]]
            scores = iter(run_rounds(flat, repeat, around.conditions(advance)))
    return {
        when: CompareSide(
            cache=cache_state(asked_cold=when == "cold", cached=cached[when]),
            cached=tuple(cached[when]),
            scores=tuple(replace(next(scores), name=one.name.removesuffix(f", {when}")) for one in everyone[when]),
        )
        for when in states
    }


def _named(course: Course, when: str) -> list[Contestant]:
    """List who takes part with the page cache in a state, by names that say so."""
    return [replace(one, name=f"{one.name}, {when}") for one in entered(course, cold=when == "cold")]
