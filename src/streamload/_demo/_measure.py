"""Run one load and first token, timed; and once more with marks, for the timeline.

Floor 6. Three ways to load, one way to time them: from opening the checkpoint to the first token on the host.
Building the module without weights comes before in each, and is not counted. Timed runs carry no hooks; only
a marked run has them, on the demo's own module, and its times are not used as figures.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .._checkpoint import open as open_checkpoint
from .._engine import CopyEngine
from .._models import Marks, load_plainly, residue
from ..torch import stream_module
from ._timeline import Timeline

if TYPE_CHECKING:
    from torch import nn

    from .._engine import LoadStats
    from .._models import Subject
    from .._native import CudaDevice, HostDevice

__all__ = ["Place", "Run", "measure_compute", "run_safetensors", "run_streamload"]


@dataclass(frozen=True, slots=True)
class Place:
    """Name where weights go, for torch and for the engine.

    Attributes:
        torch_device: "cpu" or "cuda:N".
        device: What engines are made over.
    """

    torch_device: str
    device: HostDevice | CudaDevice

    def synchronize(self) -> None:
        """Wait until the device is idle; before and after what is timed."""
        if self.torch_device != "cpu":
            torch.cuda.synchronize(self.torch_device)


@dataclass(frozen=True, slots=True)
class Run:
    """Hold what one run gave.

    Attributes:
        first_token_seconds: From opening the checkpoint until the first token was on the host.
        output: The logits, on the host.
        residue: What was left of the load in the module once all was resident; empty is right.
        stats: Of the load; None where the engine was not used.
        timeline: Of a marked run.
    """

    first_token_seconds: float
    output: torch.Tensor
    residue: tuple[str, ...] = ()
    stats: LoadStats | None = None
    timeline: Timeline | None = None


def run_streamload(subject: Subject, place: Place, *, wait_first: bool, title: str = "") -> Run:
    """Load with streamload and compute the first token.

    Args:
        subject: What to load.
        place: Where to.
        wait_first: True waits for every weight before computing: the usual way, over the same link.
        title: Not empty marks the run and names its timeline.
    """
    module, ids = subject.build(), subject.prompt(place.torch_device)
    gc.collect()
    place.synchronize()
    marks = Marks(module, place.torch_device) if title else None
    began = time.perf_counter()
    with open_checkpoint(subject.path) as checkpoint, CopyEngine(place.device) as engine:
        loading = stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine)
        returned = time.perf_counter() - began
        submitted = returned - loading.ticket.stats().seconds
        if wait_first:
            loading.wait()
            returned = time.perf_counter() - began
        with torch.no_grad():
            output = subject.compute(module, ids)
            int(output.argmax())  # brings the token to the host, and so waits for it
        first_token = time.perf_counter() - began
        loading.wait()
        timeline = None
        if marks is not None:
            spans = marks.spans(began, checkpoint, loading.ticket.trace(), submitted)
            layers = tuple(layer.name for layer in checkpoint.layers)
            timeline = Timeline(title, layers, spans, first_token, returned)
        stats = loading.ticket.stats()
    return Run(first_token, output.cpu(), residue(module), stats, timeline)


def run_safetensors(subject: Subject, place: Place) -> Run:
    """Load with safetensors alone and compute the first token."""
    module, ids = subject.build(), subject.prompt(place.torch_device)
    gc.collect()
    place.synchronize()
    began = time.perf_counter()
    load_plainly(subject, place.torch_device, module)
    with torch.no_grad():
        output = subject.compute(module, ids)
        int(output.argmax())
    return Run(time.perf_counter() - began, output.cpu())


def measure_compute(subject: Subject, place: Place, module: nn.Module, repeat: int) -> tuple[torch.Tensor, list[float]]:
    """Compute the first token `repeat` times with everything resident, after a warm-up.

    Returns:
        The logits on the host, and the seconds of each pass.
    """
    ids = subject.prompt(place.torch_device)
    seconds: list[float] = []
    with torch.no_grad():
        for _ in range(repeat + 2):
            place.synchronize()
            began = time.perf_counter()
            output = subject.compute(module, ids)
            int(output.argmax())
            seconds.append(time.perf_counter() - began)
    return output.cpu(), seconds[2:]
