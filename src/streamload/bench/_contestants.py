"""Who takes part in the engine benchmark: ceilings, streamload, and the peers that are installed.

Floor 6; needs torch. Each contestant moves the same bytes of the same checkpoint once a call.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file as safetensors_load_file

from .._checkpoint import open as open_checkpoint
from .._machine import usable_cpus
from .._plan import Copy, make_plan
from .._units import say_bytes
from ..torch import load_file
from ._ceiling import copy_from_mappings, cut_pieces, read_pieces
from ._rounds import CannotRun, Contestant

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from .._engine import CopyEngine

__all__ = ["Course", "contestants"]

_PROBE_BYTES = 256 << 20
_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class Course:
    """Hold what every contestant works on.

    Attributes:
        path: The checkpoint.
        files: Its shards.
        nbytes: Bytes of its weights.
        torch_device: Where they go.
        existing: Memory for every tensor, touched, by name.
        engine: Streamload's engine over the device.
        scratch: A directory for the files a peer needs in its own format.
    """

    path: str | os.PathLike[str]
    files: tuple[Path, ...]
    nbytes: int
    torch_device: str
    existing: dict[str, torch.Tensor]
    engine: CopyEngine
    scratch: Path


def contestants(course: Course) -> list[Contestant]:
    """List who takes part on the course's device."""
    host = course.torch_device == "cpu"

    def pinned() -> int:
        return course.engine.pinned_bytes

    ours = [
        Contestant("engine, existing memory", "streamload", "existing", lambda: _fill_existing(course), pinned),
        Contestant("engine, new memory", "streamload", "new", lambda: _fill_new(course), pinned),
    ]
    if not host:
        ours.append(Contestant("load_file, new memory", "streamload", "new", lambda: _load_file(course)))
    peers = [
        Contestant("safetensors, existing memory", "peer", "existing", lambda: _safetensors_existing(course)),
        Contestant(
            "safetensors + clone" if host else "safetensors load_file", "peer", "new", lambda: _safetensors_new(course)
        ),
        Contestant("torch.load(mmap=True)", "peer", "new", _torch_load(course)),
    ]
    return [*(_host_ceilings(course) if host else _link_ceiling(course)), *ours, *peers]


def fill_block(course: Course, block: torch.Tensor) -> dict[str, int]:
    """Fill one block of memory with every tensor, and return where in it each begins."""
    with open_checkpoint(course.path) as checkpoint:
        base, offset = block.data_ptr(), 0
        placed: dict[str, int] = {}
        groups: list[list[Copy]] = []
        for layer in checkpoint.layers:
            groups.append([])
            for tensor in layer.tensors:
                placed[tensor.name] = offset
                groups[-1].append(Copy(tensor.shard, tensor.start, tensor.end, base + offset))
                offset += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        plan = make_plan(groups, chunk_bytes=course.engine.options.chunk_bytes)
        sources = [shard.source for shard in checkpoint.shards]
        with course.engine.submit(plan, sources, keep_alive=(block,)) as ticket:
            ticket.wait()
    return placed


def block_nbytes(course: Course) -> int:
    """Return what `fill_block` needs."""
    return sum(-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in course.existing.values()) or 1


def _fill_existing(course: Course) -> None:
    with open_checkpoint(course.path) as checkpoint:
        groups = [
            [Copy(t.shard, t.start, t.end, course.existing[t.name].data_ptr()) for t in layer.tensors]
            for layer in checkpoint.layers
        ]
        plan = make_plan(groups, chunk_bytes=course.engine.options.chunk_bytes)
        sources = [shard.source for shard in checkpoint.shards]
        with course.engine.submit(plan, sources, keep_alive=tuple(course.existing.values())) as ticket:
            ticket.wait()


def _fill_new(course: Course) -> torch.Tensor:
    block = torch.empty(block_nbytes(course), dtype=torch.uint8, device=course.torch_device)
    fill_block(course, block)
    return block


def _load_file(course: Course) -> list[dict[str, torch.Tensor]]:
    return [load_file(file, device=course.torch_device) for file in course.files]


def _safetensors_existing(course: Course) -> None:
    for file in course.files:
        for name, tensor in safetensors_load_file(file, device=course.torch_device).items():
            course.existing[name].copy_(tensor)


def _safetensors_new(course: Course) -> list[dict[str, torch.Tensor]]:
    loaded = [safetensors_load_file(file, device=course.torch_device) for file in course.files]
    if course.torch_device == "cpu":  # a mapping until its bytes are touched
        return [{name: tensor.clone() for name, tensor in part.items()} for part in loaded]
    return loaded


def _torch_load(course: Course) -> Callable[[], object]:
    """Write the tensors as `torch.save` does, outside the clock, and return how to load them back."""
    files = [course.scratch / f"{file.stem}.pt" for file in course.files]
    needed, free = course.nbytes, shutil.disk_usage(course.scratch).free
    if free < 1.2 * needed:
        reason = f"its copy of the weights needs {say_bytes(needed)} in {course.scratch}, {say_bytes(free)} are free"
        return lambda: _refuse(reason)
    for source, target in zip(course.files, files, strict=True):
        torch.save(safetensors_load_file(source), target)

    def run() -> list[dict[str, torch.Tensor]]:
        loaded = [torch.load(file, mmap=True, weights_only=True) for file in files]
        if course.torch_device == "cpu":
            return [{name: tensor.clone() for name, tensor in part.items()} for part in loaded]
        return [{name: tensor.to(course.torch_device) for name, tensor in part.items()} for part in loaded]

    return run


def _refuse(reason: str) -> None:
    raise CannotRun(reason)


def _host_ceilings(course: Course) -> list[Contestant]:
    """Fill existing memory by plain system calls, with as many threads as there are processors."""
    with open_checkpoint(course.path) as checkpoint:
        ranges = [(t.shard, t.start, t.end, course.existing[t.name].data_ptr()) for t in checkpoint.values()]
    pieces, threads = cut_pieces(ranges), usable_cpus()
    return [
        Contestant(
            f"preadv, {threads} threads", "ceiling", "existing", lambda: read_pieces(course.files, pieces, threads)
        ),
        Contestant(
            f"mapped copy, {threads} threads",
            "ceiling",
            "existing",
            lambda: copy_from_mappings(course.files, pieces, threads),
        ),
    ]


def _link_ceiling(course: Course) -> list[Contestant]:
    """Copy pinned memory to the device, and scale its time to the checkpoint's bytes."""

    def run() -> float:
        return median(course.engine.device.measure_link(_PROBE_BYTES, 5)) * course.nbytes / _PROBE_BYTES

    return [Contestant("pinned copy over the link", "ceiling", "existing", run, seconds_of=_as_seconds)]


def _as_seconds(measured: object) -> float:
    if not isinstance(measured, float):
        raise TypeError(f"expected seconds, got {measured!r}")
    return measured
