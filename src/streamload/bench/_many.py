"""`streamload bench engine --many-tensors`: what many small tensors cost, in rate and in planning.

Floor 6; needs torch and safetensors. The same bytes in 300 tensors and in 20,000, interleaved, by the same calls.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _native
from .._engine import open_device
from .._machine import machine_facts
from ._contestants import ceiling_contestants
from ._course import open_course
from ._many_result import ManyTensorsBench
from ._ours import ours
from ._planning import measure_planning, write_hollow_file
from ._result import BenchError, cache_state
from ._rounds import run_rounds
from ._shapes import OWN_BYTES, expert_names, make_moe_checkpoint
from ._surroundings import Surroundings

if TYPE_CHECKING:
    from ._course import Course
    from ._progress import BenchProgress
    from ._result import Score

__all__ = ["run"]


def run(
    device: str,
    *,
    repeat: int,
    counts: tuple[int, int],
    planned: int,
    nbytes: int | None,
    command: str,
    progress: BenchProgress,
) -> ManyTensorsBench:
    """Do what `run_many_tensors_bench` says."""
    try:
        open_device(device)
    except ValueError as error:
        raise BenchError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="streamload-bench-") as name:
        scratch = Path(name)
        courses = [_course(scratch / str(count), count, nbytes or OWN_BYTES, device, progress) for count in counts]
        cached: list[float | None] = []
        scores = _race(courses, repeat, device, cached, progress)
        hollow = scratch / "hollow.safetensors"
        write_hollow_file(hollow, expert_names(planned))
        planning = measure_planning(hollow, repeat)
    few, many = courses
    return ManyTensorsBench(
        tensors=(len(few.existing), len(many.existing)),
        nbytes=(few.nbytes, many.nbytes),
        device=device,
        cache=cache_state(asked_cold=False, cached=cached),
        rounds=repeat,
        few=tuple(scores[: len(scores) // 2]),
        many=tuple(scores[len(scores) // 2 :]),
        planning=planning,
        command=command,
        machine=machine_facts(native_build=_native.build_type),
    )


def _course(directory: Path, count: int, nbytes: int, device: str, progress: BenchProgress) -> Course:
    with progress.stage(f"{count} tensors", nbytes, "B") as advance:
        make_moe_checkpoint(directory, count, nbytes=nbytes, progress=advance)
    return open_course(directory, device, directory.parent)


def _race(
    courses: list[Course], repeat: int, device: str, cached: list[float | None], progress: BenchProgress
) -> list[Score]:
    """Run ceilings and streamload over both checkpoints; what the page cache held before each run goes to `cached`."""

    with Surroundings(device, max(course.nbytes for course in courses)) as around:
        everyone = [
            replace(contestant, name=f"{contestant.name}, {len(course.existing):,} tensors")
            for course in courses
            for contestant in around.in_state(
                [*ceiling_contestants(course, cold=False), *ours(course)], course, cold=False, cached=cached
            )
        ]
        with progress.stage("measuring", (repeat + 1) * len(everyone), "run") as advance:
            return run_rounds(everyone, repeat, around.conditions(advance))
