"""`streamload bench engine`: how fast a checkpoint's bytes reach memory.

Floor 6; needs torch and safetensors. Before the clock starts, streamload's result is compared with safetensors',
bit for bit: a rate of wrong bytes is not a rate.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file as safetensors_load_file
from tqdm import tqdm

from .. import _native
from .._checkpoint import open as open_checkpoint
from .._engine import CopyEngine, open_device
from .._machine import cached_fraction, drop_from_cache, machine_facts
from .._sources import local_path
from ..testing import LlamaShape, make_checkpoint
from ._contestants import Course, block_nbytes, contestants, fill_block
from ._result import BenchError, EngineBench, cache_state
from ._rounds import run_rounds

if TYPE_CHECKING:
    import os

__all__ = ["run"]

_OWN_SHAPE = LlamaShape(
    layers=20, hidden=1024, heads=16, kv_heads=16, intermediate=2816, vocab=8192, dtype="F32"
)  # about 1 GB


def run(path: str | os.PathLike[str] | None, device: str, *, repeat: int, cold: bool, command: str) -> EngineBench:
    """Do what `run_engine_bench` says."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-bench-")))
        if path is None:
            with tqdm(
                total=_OWN_SHAPE.nbytes, unit="B", unit_scale=True, desc="checkpoint", leave=False, disable=None
            ) as bar:
                path = make_checkpoint(scratch / "checkpoint", _OWN_SHAPE, progress=bar.update)
        engine = stack.enter_context(_engine(device))
        course = _course(path, device, engine, scratch)
        _check_bytes(course)
        return _race(course, repeat, cold=cold, command=command)


def _engine(device: str) -> CopyEngine:
    try:
        return CopyEngine(open_device(device))
    except ValueError as error:
        raise BenchError(str(error)) from error


def _course(path: str | os.PathLike[str], device: str, engine: CopyEngine, scratch: Path) -> Course:
    with open_checkpoint(path) as checkpoint:
        files = tuple(Path(local_path(shard.url)) for shard in checkpoint.shards)
        nbytes = checkpoint.nbytes
    if not nbytes:
        raise BenchError(f"{path}: the checkpoint holds no bytes to move")
    existing: dict[str, torch.Tensor] = {}
    for file in files:
        existing |= {name: torch.zeros_like(t, device=device) for name, t in safetensors_load_file(file).items()}
    return Course(path, files, nbytes, device, existing, engine, scratch)


def _check_bytes(course: Course) -> None:
    block = torch.zeros(block_nbytes(course), dtype=torch.uint8, device=course.torch_device)
    placed = fill_block(course, block)
    for file in course.files:
        for name, expected in safetensors_load_file(file, device=course.torch_device).items():
            raw = expected.contiguous().reshape(-1).view(torch.uint8)
            if not torch.equal(block[placed[name] : placed[name] + raw.numel()], raw):
                raise BenchError(f"{name!r} of {file} came out wrong; no rate is worth that")


def _race(course: Course, repeat: int, *, cold: bool, command: str) -> EngineBench:
    on_gpu = course.torch_device != "cpu"
    cached: list[float | None] = []

    def prepare() -> None:
        if cold:
            for file in course.files:
                drop_from_cache(file)
            for copy in course.scratch.glob("*.pt"):
                drop_from_cache(copy)
        parts = [cached_fraction(file) for file in course.files]
        known = [part for part in parts if part is not None]
        cached.append(sum(known) / len(known) if len(known) == len(parts) else None)

    everyone = contestants(course)
    with tqdm(total=repeat * len(everyone), desc="runs", unit="run", leave=False, disable=None) as bar:
        scores = run_rounds(
            everyone,
            repeat,
            prepare=prepare,
            synchronize=(lambda: torch.cuda.synchronize(course.torch_device)) if on_gpu else (lambda: None),
            progress=bar.update,
        )
    return EngineBench(
        nbytes=course.nbytes,
        tensors=len(course.existing),
        device=course.torch_device,
        cache=cache_state(asked_cold=cold, cached=cached),
        rounds=repeat,
        cached=tuple(cached),
        scores=tuple(scores),
        command=command,
        machine=machine_facts(native_build=_native.build_type),
    )
