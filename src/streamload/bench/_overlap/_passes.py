"""One pass, timed: with everything resident, streamed, or loaded first.

Part of `bench._overlap`; needs torch. A pass ends when its token is on the host. Timed passes carry no hooks; a pass
by part has one on each part, and gives no other figure.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine
from ..._models import open_clock, residue
from ...torch import stream_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..._engine import ChunkTrace, LoadStats
    from ..._models import Subject
    from ._place import Place

__all__ = ["PartMarks", "Pass", "StreamedPass", "first_token", "resident_pass", "streamed_pass"]


@dataclass(frozen=True, slots=True)
class Pass:
    """Hold one pass.

    Attributes:
        seconds: From the call until the token was on the host.
        output: The logits, on the host.
        part_seconds: Of each part, by name, in their order; empty where there were no marks.
    """

    seconds: float
    output: torch.Tensor
    part_seconds: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class StreamedPass:
    """Hold one first pass of a module that was not there.

    Attributes:
        seconds: From opening the checkpoint, and making the engine, until the first token was on the host.
        since_call_seconds: The same from the call of `stream_module`.
        output: The logits, on the host.
        residue: What was left of the load once all was resident; empty is right.
        stats: Of the load.
        load_seconds: From the same beginning to the first read.
        part_seconds: Of each part, waiting included; empty where there were no marks.
        trace: Of the load's reads.
    """

    seconds: float
    since_call_seconds: float
    output: torch.Tensor
    residue: tuple[str, ...]
    stats: LoadStats
    load_seconds: float
    part_seconds: list[tuple[str, float]]
    trace: list[ChunkTrace]


class PartMarks:
    """Time the parts of a module within one pass; a context manager that takes its hooks away.

    A part is a submodule with parameters of its own. Its time ends where the next one's begins.

    Args:
        module: What computes, once.
        place: Where.
    """

    def __init__(self, module: nn.Module, place: Place) -> None:
        self._clock = open_clock(place.torch_device)
        self._names: list[str] = []
        self._handles = [
            part.register_forward_pre_hook(self._hook(name))
            for name, part in module.named_modules()
            if part._parameters
        ]
        self._clock.mark()

    def __enter__(self) -> PartMarks:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def seconds(self) -> list[tuple[str, float]]:
        """End the last part, and return each one's name and seconds; the first began with the marks."""
        self._clock.mark()
        first, _, *others = self._clock.seconds()
        times = [first, *others]
        return [(name, end - begin) for name, begin, end in zip(self._names, times[:-1], times[1:], strict=True)]

    def _hook(self, name: str) -> Callable[..., None]:
        def mark(*_: object) -> None:
            self._names.append(name)
            self._clock.mark()

        return mark


def resident_pass(subject: Subject, place: Place, module: nn.Module, *, by_part: bool = False) -> Pass:
    """Compute the token with everything resident.

    Args:
        subject: What to compute.
        place: Where.
        module: With all its weights.
        by_part: Time each part, with a hook on it.
    """
    ids = subject.prompt(place.torch_device)
    place.synchronize()
    if not by_part:
        began = time.perf_counter()
        output = first_token(subject, module, ids)
        return Pass(time.perf_counter() - began, output.cpu(), [])
    with PartMarks(module, place) as marks:
        began = time.perf_counter()
        output = first_token(subject, module, ids)
        return Pass(time.perf_counter() - began, output.cpu(), marks.seconds())


def streamed_pass(
    subject: Subject, place: Place, *, wait_first: bool = False, by_part: bool = False
) -> tuple[StreamedPass, nn.Module]:
    """Stream a module and compute its first token; the module comes back with all its weights.

    Args:
        subject: What to load and compute.
        place: Where.
        wait_first: Wait for every weight before computing: the usual way, over the same link.
        by_part: Time each part, with a hook on it.
    """
    module, ids = subject.build(), subject.prompt(place.torch_device)
    gc.collect()
    place.synchronize()
    began, monotonic = time.perf_counter(), time.monotonic()
    with open_checkpoint(subject.path) as checkpoint, CopyEngine(place.device) as engine:
        marks = PartMarks(module, place) if by_part else None
        called = time.perf_counter()
        loading = stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine)
        if wait_first:
            loading.wait()
        output = first_token(subject, module, ids)
        ended = time.perf_counter()
        part_seconds: list[tuple[str, float]] = []
        if marks is not None:
            with marks:
                part_seconds = marks.seconds()
        loading.wait()
        stats, trace = loading.stats(), loading.ticket.trace()
    found = StreamedPass(
        seconds=ended - began,
        since_call_seconds=ended - called,
        output=output.cpu(),
        residue=residue(module),
        stats=stats,
        load_seconds=loading.ticket.submitted - monotonic + min((chunk.read_start for chunk in trace), default=0.0),
        part_seconds=part_seconds,
        trace=trace,
    )
    return found, module


def first_token(subject: Subject, module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Compute, and bring the token to the host, which waits for it."""
    with torch.no_grad():
        output = subject.compute(module, ids)
        int(output.argmax())
    return output
