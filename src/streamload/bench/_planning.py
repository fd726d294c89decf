"""What it costs to open a checkpoint and to plan its load, by the tensor.

Floor 6; needs safetensors' names only: the weights are a hole in a file, for nothing reads them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .._checkpoint import open as open_checkpoint
from .._plan import Copy, make_plan
from ..options import StreamOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["PlanningCost", "measure_planning", "write_hollow_file"]

_TENSOR_BYTES = 4096
_ALIGNMENT = 256
_BASE = 1 << 40  # any address: a plan is numbers


@dataclass(frozen=True, slots=True)
class PlanningCost:
    """Hold what opening and planning took.

    Attributes:
        tensors: Of the checkpoint.
        open_seconds: Of each run: opening the file, reading and checking its header, finding layers.
        plan_seconds: Of each run: from tensors and addresses to reads and copies.
    """

    tensors: int
    open_seconds: tuple[float, ...]
    plan_seconds: tuple[float, ...]

    @property
    def open_microseconds_per_tensor(self) -> float:
        """Median time to open the checkpoint, divided by its tensors."""
        return median(self.open_seconds) * 1e6 / self.tensors

    @property
    def plan_microseconds_per_tensor(self) -> float:
        """Median time to plan the load, divided by its tensors."""
        return median(self.plan_seconds) * 1e6 / self.tensors


def measure_planning(file: Path, repeat: int) -> PlanningCost:
    """Open a checkpoint and plan the load of all its tensors, `repeat` times."""
    opening: list[float] = []
    planning: list[float] = []
    tensors = 0
    for _ in range(repeat):
        began = time.perf_counter()
        with open_checkpoint(file) as checkpoint:
            layers = checkpoint.layers
            opened = time.perf_counter()
            address, groups = _BASE, []
            for layer in layers:
                copies = []
                for tensor in layer.tensors:
                    copies.append(Copy(tensor.shard, tensor.start, tensor.end, address))
                    address += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
                groups.append(copies)
            make_plan(groups, chunk_bytes=StreamOptions().chunk_bytes)
            planned = time.perf_counter()
            tensors = len(checkpoint)
        opening.append(opened - began)
        planning.append(planned - opened)
    return PlanningCost(tensors, tuple(opening), tuple(planning))


def write_hollow_file(path: Path, names: Iterable[str]) -> None:
    """Write a safetensors file with a header for tensors of 4 KiB and a hole for their bytes.

    Raises:
        OSError: It cannot be written.
    """
    entries: dict[str, object] = {}
    end = 0
    for name in names:
        entries[name] = {"dtype": "U8", "shape": [_TENSOR_BYTES], "data_offsets": [end, end + _TENSOR_BYTES]}
        end += _TENSOR_BYTES
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
