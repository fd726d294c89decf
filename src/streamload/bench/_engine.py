"""`streamload bench engine`: how fast a checkpoint's bytes reach memory.

Floor 6; needs torch and safetensors. Before the clock starts, every contestant's bytes are compared with
safetensors', bit for bit: a rate of wrong bytes is not a rate.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _native
from .._engine import open_device
from .._machine import machine_facts
from ..testing import LlamaShape, make_checkpoint
from ._contestants import contestants
from ._course import open_course
from ._ours import fixed_cost_of
from ._result import BenchError, EngineBench, cache_state
from ._rounds import run_rounds
from ._shapes import OWN_BYTES, make_moe_checkpoint
from ._surroundings import Surroundings
from ._traced import traced_loads

if TYPE_CHECKING:
    import os

    from ._course import Course
    from ._progress import BenchProgress
    from ._settings import PeerSettings

__all__ = ["make_own_checkpoint", "run"]

_OWN_SHAPE = LlamaShape(
    layers=20, hidden=1024, heads=16, kv_heads=16, intermediate=2816, vocab=8192, dtype="F32"
)  # about 1 GB


def run(
    path: str | os.PathLike[str] | None,
    device: str,
    *,
    repeat: int,
    cold: bool,
    tensors: int | None,
    settings: PeerSettings,
    command: str,
    progress: BenchProgress,
) -> EngineBench:
    """Do what `run_engine_bench` says."""
    try:
        open_device(device)
    except ValueError as error:
        raise BenchError(str(error)) from error
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-bench-")))
        if path is None:
            path = make_own_checkpoint(scratch / "checkpoint", tensors, progress)
        elif tensors is not None:
            raise BenchError("a number of tensors is for a checkpoint made here; leave out the path")
        course = open_course(path, device, scratch)
        return _race(course, repeat, cold=cold, settings=settings, command=command, progress=progress)


def make_own_checkpoint(directory: Path, tensors: int | None, progress: BenchProgress) -> Path:
    """Write a checkpoint of about 1 GB: a Llama, or a mixture of experts of so many tensors."""
    total = _OWN_SHAPE.nbytes if tensors is None else OWN_BYTES
    with progress.stage("checkpoint", total, "B") as advance:
        if tensors is None:
            return make_checkpoint(directory, _OWN_SHAPE, progress=advance)
        return make_moe_checkpoint(directory, tensors, progress=advance)


def _race(
    course: Course, repeat: int, *, cold: bool, settings: PeerSettings, command: str, progress: BenchProgress
) -> EngineBench:
    cached: list[float | None] = []
    entered = [*contestants(course, cold=cold), fixed_cost_of(course)]
    with (
        Surroundings(course.torch_device, course.nbytes) as around,
        progress.stage("measuring", (repeat + 1) * len(entered), "run") as advance,
    ):
        everyone = around.in_state(entered, course, cold=cold, cached=cached)
        *scores, fixed = run_rounds(everyone, repeat, around.conditions(advance))
    return EngineBench(
        nbytes=course.nbytes,
        tensors=len(course.existing),
        device=course.torch_device,
        cache=cache_state(asked_cold=cold, cached=cached),
        rounds=repeat,
        scores=tuple(scores),
        fixed_cost_seconds=fixed.seconds,
        cached=tuple(cached),
        peer_settings=settings,
        command=command,
        machine=machine_facts(native_build=_native.build_type),
        timelines=traced_loads(course, cold=cold, new_memory=False),
    )
