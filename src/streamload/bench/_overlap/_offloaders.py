"""Other ways to compute with weights that are not on the device, each called as its own documentation says.

Part of `bench._overlap`; needs torch. Peers: accelerate's hooks and diffusers' group offloading. On the host they can
only compute there, without a link between: those that read files stand beside streamload without a pace.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine, open_device
from ..._models import load_plainly
from ..._sources import local_path
from ...options import StreamOptions
from ...torch import stream_module
from .._rounds import CannotRun
from ._oversized import memory_for_half

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ._cold import ColdCourse

__all__ = ["Offloader", "offloaders"]


@dataclass(frozen=True, slots=True)
class Offloader:
    """Name a way to compute without all weights on the device.

    Attributes:
        name: What it is.
        role: "streamload" or "peer".
        moves: What it moves in each pass: "all", "half" or "nothing".
        open: Makes a module that can compute, given an empty folder; what it does is in the time of the first token.
            A peer may raise anything, others `CannotRun`.
        prepare: Makes what it needs in the folder, outside the clock.
    """

    name: str
    role: str
    moves: str
    open: Callable[[ColdCourse, Path], AbstractContextManager[nn.Module]]
    prepare: Callable[[ColdCourse, Path], None] = lambda course, folder: None


def offloaders() -> list[Offloader]:
    """List streamload and every peer, installed or not."""
    return [
        Offloader("streamload, all becomes resident", "streamload", "nothing", _streamload),
        Offloader("streamload, half of the layers through slots", "streamload", "half", _streamload_half),
        Offloader("accelerate disk_offload", "peer", "all", _accelerate_disk, _write_offload_index),
        Offloader("accelerate dispatch_model, half on disk", "peer", "half", _accelerate_dispatch),
        Offloader("accelerate cpu_offload", "peer", "all", _accelerate_cpu),
        *(
            Offloader(f"diffusers {level}{place}", "peer", "all", _diffusers(level, on_disk=bool(place)))
            for place in (", from disk", "")
            for level in ("block_level", "leaf_level")
        ),
    ]


@contextmanager
def _streamload(course: ColdCourse, folder: Path) -> Iterator[nn.Module]:
    with _streamed(course, StreamOptions()) as module:
        yield module


@contextmanager
def _streamload_half(course: ColdCourse, folder: Path) -> Iterator[nn.Module]:
    with _streamed(course, StreamOptions(device_memory=memory_for_half(course))) as module:
        yield module


@contextmanager
def _streamed(course: ColdCourse, options: StreamOptions) -> Iterator[nn.Module]:
    device = course.place.torch_device
    module = course.subject.build()
    with (
        open_checkpoint(course.subject.path) as checkpoint,
        CopyEngine(open_device(device), options) as engine,  # without a pace, for peers have none
        stream_module(module, checkpoint, device, strict=False, engine=engine),
    ):
        yield module


def _write_offload_index(course: ColdCourse, folder: Path) -> None:
    """Write the index that accelerate's own loader writes for safetensors files that it leaves where they are."""
    with open_checkpoint(course.subject.path) as checkpoint:
        index = {
            tensor.name: {
                "safetensors_file": local_path(checkpoint.shards[tensor.shard].url),
                "weight_name": tensor.name,
                "dtype": str(next(course.resident.parameters()).dtype).removeprefix("torch."),
            }
            for tensor in checkpoint.values()
        }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


@contextmanager
def _accelerate_disk(course: ColdCourse, folder: Path) -> Iterator[nn.Module]:
    from accelerate import disk_offload

    device = torch.device(course.place.torch_device)
    yield disk_offload(course.subject.build(), str(folder), execution_device=device)


@contextmanager
def _accelerate_dispatch(course: ColdCourse, folder: Path) -> Iterator[nn.Module]:
    from accelerate import load_checkpoint_and_dispatch

    module = course.subject.build()
    _, blocks = _block_list(module)
    device: str | int = "cpu" if course.place.on_host else torch.device(course.place.torch_device).index or 0
    streamed = set(_children(module, blocks)[1::2])
    yield load_checkpoint_and_dispatch(
        module,
        str(course.subject.path),
        device_map={name: "disk" if name in streamed else device for name in _leaves_around(module, blocks)},
        offload_folder=str(folder),
    )


@contextmanager
def _accelerate_cpu(course: ColdCourse, folder: Path) -> Iterator[nn.Module]:
    from accelerate import cpu_offload

    _needs_a_link(course)
    device = torch.device(course.place.torch_device)
    yield cpu_offload(load_plainly(course.subject, "cpu"), execution_device=device)


def _diffusers(level: str, *, on_disk: bool) -> Callable[[ColdCourse, Path], AbstractContextManager[nn.Module]]:
    @contextmanager
    def opened(course: ColdCourse, folder: Path) -> Iterator[nn.Module]:
        from diffusers.hooks.group_offloading import apply_group_offloading

        if not on_disk:
            _needs_a_link(course)
        device = torch.device(course.place.torch_device)
        module = load_plainly(course.subject, "cpu")
        inside, _ = _block_list(module)
        apply_group_offloading(
            module.get_submodule(inside),
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type=level,
            num_blocks_per_group=1 if level == "block_level" else None,
            use_stream=not course.place.on_host,
            non_blocking=not course.place.on_host,
            offload_to_disk_path=str(folder) if on_disk else None,
        )
        for name, part in module.named_children():
            if inside and name != inside.partition(".")[0]:
                part.to(device)  # group offloading looks at the children of one module for its blocks
        yield module

    return opened


def _needs_a_link(course: ColdCourse) -> None:
    if course.place.on_host:
        raise CannotRun("its weights are in host memory, where the host computes: it would move nothing")


def _block_list(module: nn.Module) -> tuple[str, str]:
    """Return the names of the module whose child is the longest list of blocks, and of that list.

    Raises:
        CannotRun: There is no list of blocks.
    """
    lists = {name: len(part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList)}
    if not lists:
        raise CannotRun("the model has no list of blocks")
    blocks = max(lists, key=lambda name: lists[name])
    return blocks.rpartition(".")[0], blocks


def _leaves_around(module: nn.Module, blocks: str) -> list[str]:
    """Return the modules that together hold all parameters, blocks whole and everything else by its owner."""
    found = _children(module, blocks)
    others = (name for name, part in module.named_modules() if part._parameters)
    return [*found, *(name for name in others if name and not name.startswith(f"{blocks}."))]


def _children(module: nn.Module, blocks: str) -> list[str]:
    return [f"{blocks}.{name}" for name, _ in module.get_submodule(blocks).named_children()]
