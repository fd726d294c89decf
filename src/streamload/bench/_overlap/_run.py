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
from tqdm import tqdm

from ... import _native
from ..._engine import open_device
from ..._machine import machine_facts, memory_headroom_bytes
from ..._models import load_plainly, one_processor_for_copying, own_subject, transformers_subject
from ...testing import LlamaShape, make_checkpoint
from .._result import BenchError, cache_state
from ._cold import ColdCourse, run_cold
from ._offloaders import offloaders
from ._oversized import run_oversized
from ._passes import resident_pass
from ._peers import run_peers
from ._place import Place, open_files
from ._prompts import prompts_that_take
from ._result import OverlapBench
from ._steady import run_steady

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ..._models import Subject
    from .._settings import OverlapSettings
    from ._result import ColdCase

__all__ = ["run"]

# What is loaded where no path is given. On the host it has as many layers as Llama-3-70B and about the same share of
# the bytes (0.02) up to the end of the first: what goes before computing, and after the last byte, is in proportion.
_HOST_SHAPE = LlamaShape(layers=80, hidden=320, heads=5, kv_heads=5, intermediate=832, vocab=2048, dtype="F32")
_CUDA_SHAPE = LlamaShape(
    layers=32, hidden=4096, heads=32, kv_heads=8, intermediate=14336, vocab=128256, dtype="BF16"
)  # Llama-3-8B: 16 GB
_CUDA_TOKENS = (128, 2048, 8192)
_COMPUTE_TO_MOVE = (0.1, 0.5, 1.0, 2.0)
_QUICK_COMPUTE_TO_MOVE = (0.5, 2.0)
# All weights over the simulated link. So slow that copying takes a small part of a processor, whose copies a GPU
# would not feel, and so long that making a plan for 700 tensors is the part of X that it is for a 70B model on a GPU's
# link, or little more; C / X is what counts, and the prompts give it any value.
_MOVE_SECONDS, _QUICK_MOVE_SECONDS = 2.0, 0.8
_STEADY_GROUPS, _QUICK_STEADY_GROUPS = 31, 9
_QUICK_REPEAT = 2
_PEER_ROUNDS, _PEER_SECONDS = 2, 45.0


def run(settings: OverlapSettings) -> OverlapBench:
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
        subject = _subject(settings, scratch)
        place = Place(settings.device, device)
        resident = load_plainly(subject, settings.device)
        tokens, place = _choose(settings, subject, place, resident)
        return _measure(settings, ColdCourse(subject, place, open_files(subject.path), resident), tokens)


def _subject(settings: OverlapSettings, scratch: Path) -> Subject:
    if settings.path is not None:
        return transformers_subject(Path(settings.path), max(settings.tokens, default=1), settings.device)
    shape = _HOST_SHAPE if settings.device == "cpu" else _that_fits(_CUDA_SHAPE, settings.device, scratch)
    with tqdm(total=shape.nbytes, unit="B", unit_scale=True, desc="checkpoint", leave=False, disable=None) as bar:
        path = make_checkpoint(scratch / "checkpoint", shape, progress=bar.update)
    return own_subject(path, shape, max(settings.tokens, default=1))


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


def _choose(
    settings: OverlapSettings, subject: Subject, place: Place, resident: nn.Module
) -> tuple[Sequence[int], Place]:
    """Choose prompts and, on the host, the pace of the link, so that they span from transfer- to compute-bound."""
    tokens = sorted(set(settings.tokens))
    if not place.on_host:
        return tokens or _CUDA_TOKENS, place
    rate = settings.link_bytes_per_second
    if rate is None:
        least = _QUICK_MOVE_SECONDS if settings.quick else _MOVE_SECONDS
        rate = float(f"{subject.nbytes / max(_middle(subject, place, resident, tokens), least):.2e}")
    if not tokens:
        wanted = _QUICK_COMPUTE_TO_MOVE if settings.quick else _COMPUTE_TO_MOVE
        tokens = prompts_that_take([part * subject.nbytes / rate for part in wanted], subject, place, resident)
    return tokens, Place(place.torch_device, _native.HostDevice(link_bytes_per_second=rate), rate)


def _middle(subject: Subject, place: Place, resident: nn.Module, tokens: Sequence[int]) -> float:
    """Return the seconds of the pass in the middle of the prompts asked for, so that X is as long; 0 for none."""
    passes = [resident_pass(replace(subject, tokens=count), place, resident).seconds for count in tokens]
    return median(passes) if passes else 0.0


def _measure(settings: OverlapSettings, course: ColdCourse, tokens: Sequence[int]) -> OverlapBench:
    repeat = min(settings.repeat, _QUICK_REPEAT) if settings.quick else settings.repeat
    cached = [course.files.cached()]
    with tqdm(total=(repeat + 1) * len(tokens), desc="runs", leave=False, disable=None) as bar:
        cold = run_cold(course, tokens, repeat, bar.update)
    with tqdm(total=repeat, desc="oversized", leave=False, disable=None) as bar:
        longest = tokens[-1] if settings.tokens else _compute_bound(cold, course.subject.most_tokens)
        oversized = run_oversized(course, longest, repeat, bar.update)
    groups = _QUICK_STEADY_GROUPS if settings.quick else _STEADY_GROUPS
    shortest = 1 if course.place.on_host and not settings.tokens else tokens[0]
    steady = run_steady(course, shortest, groups)
    with tqdm(total=_PEER_ROUNDS * len(offloaders()), desc="peers", leave=False, disable=None) as bar:
        peers = run_peers(course, 1 if settings.quick else _PEER_ROUNDS, _PEER_SECONDS, bar.update)
    cached.append(course.files.cached())
    return OverlapBench(
        model=course.subject.title,
        layers=len(course.subject.layers),
        nbytes=course.subject.nbytes,
        device=settings.device,
        simulated_link=course.place.paced,
        threads=torch.get_num_threads(),
        cache=cache_state(asked_cold=False, cached=cached),
        rounds=repeat,
        cold=tuple(cold),
        steady=steady,
        oversized=oversized,
        peers=tuple(peers),
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
    )


def _compute_bound(cold: Sequence[ColdCase], most: int) -> int:
    """Return twice the prompt whose pass takes as long as all weights travel, by a line through the two nearest."""
    points = sorted((case.figures()["compute_to_move"] or 0.0, case.tokens) for case in cold)
    nearest = sorted(sorted(points, key=lambda point: abs(point[0] - 1))[:2])
    (low, short), (high, long) = nearest[0], nearest[-1]
    each = (long - short) / (high - low) if high > low else 0.0
    return max(1, min(round(2 * (short + (1 - low) * each)), most))
