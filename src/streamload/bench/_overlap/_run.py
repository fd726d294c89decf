"""The whole overlap benchmark, from checkpoint to result.

Part of `bench._overlap`; needs torch and safetensors.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from ... import _native
from ..._engine import open_device
from ..._machine import machine_facts, memory_headroom_bytes
from ..._models import load_plainly, one_processor_for_copying, own_subject, transformers_subject
from ...testing import LlamaShape, make_checkpoint
from .._result import BenchError, cache_state
from ._cold import ColdCourse, run_cold
from ._effort import effort_of, left_out
from ._offloaders import offloaders
from ._oversized import run_oversized
from ._passes import resident_pass
from ._peers import run_peers
from ._place import Place, open_files
from ._prompts import prompts_that_take
from ._result import OverlapBench
from ._steady import SteadyCourse, run_steady
from ._traced import middle_course, traced_passes
from ._wake import run_wake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ..._models import Subject
    from .._progress import BenchProgress
    from .._settings import OverlapSettings
    from ._result import ColdCase

__all__ = ["run"]

# What is loaded where no path is given. On the host it has as many layers as Llama-3-70B and about the same share of
# the bytes (0.02) up to the end of the first: what goes before computing, and after the last byte, is in proportion.
_HOST_SHAPE = LlamaShape(layers=80, hidden=224, heads=4, kv_heads=4, intermediate=576, vocab=2048, dtype="F32")
_CUDA_SHAPE = LlamaShape(
    layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14336, vocab=128256, dtype="BF16"
)  # Llama-3-8B: 16 GB
_CUDA_TOKENS = (128, 2048, 8192)
_LONGEST_MOVES = 0.6  # of X, for the longest prompt: what is held against C needs no long X
# Such that prompts of some hundred tokens compute for as long as all weights travel, as on a GPU with its link.
_HOST_OPERATIONS = 2.5e10
# Of passes so short that the processor seldom changes its speed between the two of a pair, over more than its caches
# hold, for what is kept there by chance would decide.
_STEADY_SHAPE = LlamaShape(layers=4, hidden=320, heads=5, kv_heads=5, intermediate=832, vocab=256, dtype="F32")
_STEADY_LINK = 1e9
_PEER_SECONDS = 45.0


def run(settings: OverlapSettings, progress: BenchProgress) -> OverlapBench:
    """Do what `run_overlap_bench` says."""
    try:
        device = open_device(settings.device)
    except ValueError as error:
        raise BenchError(str(error)) from error
    on_host = settings.device == "cpu"
    if not on_host and settings.link_bytes_per_second is not None:
        raise BenchError("a rate is for the simulated link; a GPU's link is real")
    with ExitStack() as stack:
        if on_host:
            stack.enter_context(one_processor_for_copying())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-overlap-")))
        subject = _subject(settings, scratch, progress)
        place = Place(settings.device, device)
        resident = load_plainly(subject, settings.device)
        files = open_files(subject.path)
        courses = [
            ColdCourse(replace(subject, tokens=tokens), chosen, files, resident)
            for tokens, chosen in _choose(settings, subject, place, resident)
        ]
        return _measure(settings, courses, _steady_course(settings, courses[0], scratch, progress), progress)


def _simulated_compute(settings: OverlapSettings) -> float | None:
    """Return the operations a second of the accelerator that is simulated, or None where layers just compute."""
    on_host = settings.device == "cpu" and settings.path is None
    return _HOST_OPERATIONS if on_host and not settings.real_compute else None


def _subject(settings: OverlapSettings, scratch: Path, progress: BenchProgress) -> Subject:
    tokens = max(settings.tokens, default=1)
    if settings.path is not None:
        return transformers_subject(Path(settings.path), tokens, settings.device)
    shape = _HOST_SHAPE if settings.device == "cpu" else _that_fits(_CUDA_SHAPE, settings.device, scratch)
    path = _written(scratch / "checkpoint", shape, progress)
    return own_subject(path, shape, tokens, _simulated_compute(settings))


def _steady_course(
    settings: OverlapSettings, course: ColdCourse, scratch: Path, progress: BenchProgress
) -> SteadyCourse:
    """Choose what is compared once it is there: on the host something small, so that both of a pair meet the same."""
    effort = effort_of(settings)
    if settings.path is None and course.place.on_host:
        subject = own_subject(_written(scratch / "steady", _STEADY_SHAPE, progress), _STEADY_SHAPE, 1)
        return SteadyCourse(subject, course.place.paced_at(_STEADY_LINK), None, effort.models, effort.pairs)
    return SteadyCourse(course.subject, course.place, course.resident, 1, effort.whole_pairs)


def _written(path: Path, shape: LlamaShape, progress: BenchProgress) -> Path:
    with progress.stage("checkpoint", shape.nbytes, "B") as advance:
        return make_checkpoint(path, shape, progress=advance)


def _that_fits(shape: LlamaShape, device: str, scratch: Path) -> LlamaShape:
    """Return a shape with as many of its layers as there is room for.

    Three models on the device, the files and a peer's copy of them on the drive, and both in the page cache.
    """
    room = [torch.cuda.get_device_properties(device).total_memory / 3.5, shutil.disk_usage(scratch).free / 2.2]
    if (memory := memory_headroom_bytes()) is not None:
        room.append(memory / 2.5)
    while shape.layers > 1 and shape.nbytes > min(room):
        shape = replace(shape, layers=shape.layers - 1)
    return shape


def _choose(settings: OverlapSettings, subject: Subject, place: Place, resident: nn.Module) -> list[tuple[int, Place]]:
    """Choose prompts and, on the host, the pace of each one's link, so that they span transfer- to compute-bound."""
    tokens = sorted(set(settings.tokens))
    if not place.on_host:
        return [(count, place) for count in tokens or _CUDA_TOKENS]
    rate = settings.link_bytes_per_second
    if rate is None:
        least = effort_of(settings).move_seconds
        rate = float(f"{subject.nbytes / max(_middle(subject, place, resident, tokens), least):.2e}")
    paced = place.paced_at(rate)
    if tokens:
        return [(count, paced) for count in tokens]
    longest = paced
    if settings.link_bytes_per_second is None:
        longest = place.paced_at(float(f"{rate / _LONGEST_MOVES:.2e}"))
    parts = effort_of(settings).compute_to_move
    places = [*[paced] * (len(parts) - 1), longest]
    wanted = [part * subject.nbytes / (each.paced or rate) for part, each in zip(parts, places, strict=True)]
    return list(zip(prompts_that_take(wanted, subject, place, resident), places, strict=True))


def _middle(subject: Subject, place: Place, resident: nn.Module, tokens: Sequence[int]) -> float:
    """Return the seconds of the pass in the middle of the prompts asked for, so that X is as long; 0 for none."""
    passes = [resident_pass(replace(subject, tokens=count), place, resident).seconds for count in tokens]
    return median(passes) if passes else 0.0


def _measure(
    settings: OverlapSettings, courses: Sequence[ColdCourse], steady_course: SteadyCourse, progress: BenchProgress
) -> OverlapBench:
    course = courses[0]  # the shortest prompt
    repeat, effort = settings.repeat, effort_of(settings)
    short = len(courses) // 2
    repeats = [*[repeat] * short, *[repeat + effort.more_pairs] * (len(courses) - short)]
    cached = [course.files.cached()]
    with progress.stage("first tokens", sum(repeats) + len(courses), "run") as advance:
        cold = run_cold(courses, repeats, advance)
    with progress.stage("timelines", 2) as advance:
        timelines = traced_passes(middle_course(courses, cold), advance)
    with progress.stage("wake", repeat) as advance:
        wake = run_wake(course, repeat, advance)
    pairs = effort.oversized_pairs[0 if course.place.on_host else 1]
    with progress.stage("oversized", repeat + pairs) as advance:
        oversized = run_oversized(course, _oversized_tokens(settings, courses, cold), repeat, pairs, advance)
    with progress.stage("steady", steady_course.models) as advance:
        steady = run_steady(steady_course, advance)
    with progress.stage("peers", effort.peer_rounds * len(offloaders())) as advance:
        peers = run_peers(course, effort.peer_rounds, _PEER_SECONDS, advance)
    cached.append(course.files.cached())
    return OverlapBench(
        model=course.subject.title,
        layers=len(course.subject.layers),
        nbytes=course.subject.nbytes,
        device=settings.device,
        simulated_link=course.place.paced,
        simulated_compute=_simulated_compute(settings),
        threads=torch.get_num_threads(),
        cache=cache_state(asked_cold=False, cached=cached),
        rounds=repeat,
        cold=tuple(cold),
        steady=steady,
        oversized=oversized,
        wake=wake,
        peers=tuple(peers),
        left_out=left_out(settings),
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
        timelines=timelines,
    )


def _oversized_tokens(settings: OverlapSettings, courses: Sequence[ColdCourse], cold: Sequence[ColdCase]) -> int:
    course = courses[-1]
    if settings.tokens:
        return course.subject.tokens
    if course.place.on_host:
        return prompts_that_take(
            [effort_of(settings).oversized_seconds], course.subject, course.place, course.resident
        )[0]
    return _compute_bound(cold, course.subject.most_tokens)


def _compute_bound(cold: Sequence[ColdCase], most: int) -> int:
    """Return twice the prompt whose pass takes as long as all weights travel, by a line through the two nearest."""
    points = sorted((case.figures()["compute_to_move"] or 0.0, case.tokens) for case in cold)
    nearest = sorted(sorted(points, key=lambda point: abs(point[0] - 1))[:2])
    (low, short), (high, long) = nearest[0], nearest[-1]
    each = (long - short) / (high - low) if high > low else 0.0
    return max(1, min(round(2 * (short + (1 - low) * each)), most))
