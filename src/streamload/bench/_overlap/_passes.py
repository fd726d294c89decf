"""One pass, timed: with everything resident, streamed, or loaded first.

Part of `bench._overlap`; needs torch. A pass ends when its token is on the host. Timed passes carry no hooks; a pass
by layer has one on each layer, and gives no other figure.
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

    from ..._engine import LoadStats
    from ..._models import Subject
    from ._place import Place

__all__ = ["LayerMarks", "Pass", "StreamedPass", "resident_pass", "streamed_pass"]


@dataclass(frozen=True, slots=True)
class Pass:
    """Hold one pass.

    Attributes:
        seconds: From the call until the token was on the host.
        output: The logits, on the host.
        layer_seconds: Of each layer and what follows it until the next; empty where there were no marks.
    """

    seconds: float
    output: torch.Tensor
    layer_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class StreamedPass:
    """Hold one first pass of a module that was not there.

    Attributes:
        seconds: From opening the checkpoint, and making the engine, until the first token was on the host.
        since_call_seconds: The same from the call of `stream_module`.
        output: The logits, on the host.
        residue: What was left of the load once all was resident; empty is right.
        stats: Of the load.
        layer_seconds: Of each layer, waiting included; empty where there were no marks.
    """

    seconds: float
    since_call_seconds: float
    output: torch.Tensor
    residue: tuple[str, ...]
    stats: LoadStats
    layer_seconds: dict[str, float]


class LayerMarks:
    """Time a module's layers within one pass; a context manager that takes its hooks away.

    Args:
        module: What computes.
        subject: Its checkpoint, whose layers are timed.
        place: Where it computes.
    """

    def __init__(self, module: nn.Module, subject: Subject, place: Place) -> None:
        parts = dict(module.named_modules())
        self._clock = open_clock(place.torch_device)
        self._names: list[str] = []
        self._handles = [
            parts[name].register_forward_pre_hook(self._hook(name)) for name in subject.layers if name and name in parts
        ]
        self._clock.mark()

    def __enter__(self) -> LayerMarks:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def seconds(self) -> dict[str, float]:
        """Return the seconds from each layer's beginning to the next one's; the first begins with the pass."""
        times = self._clock.seconds()
        times = [times[0], *times[2:], time.perf_counter()]
        found: dict[str, float] = {}
        for name, begin, end in zip(self._names, times[:-1], times[1:], strict=True):
            found[name] = found.get(name, 0.0) + end - begin
        return found

    def _hook(self, name: str) -> Callable[..., None]:
        def mark(*_: object) -> None:
            self._names.append(name)
            self._clock.mark()

        return mark


def resident_pass(subject: Subject, place: Place, module: nn.Module, *, by_layer: bool = False) -> Pass:
    """Compute the token with everything resident.

    Args:
        subject: What to compute.
        place: Where.
        module: With all its weights.
        by_layer: Time each layer, with a hook on it.
    """
    ids = subject.prompt(place.torch_device)
    place.synchronize()
    if not by_layer:
        began = time.perf_counter()
        output = _first_token(subject, module, ids)
        return Pass(time.perf_counter() - began, output.cpu(), {})
    with LayerMarks(module, subject, place) as marks:
        began = time.perf_counter()
        output = _first_token(subject, module, ids)
        return Pass(time.perf_counter() - began, output.cpu(), marks.seconds())


def streamed_pass(
    subject: Subject, place: Place, *, wait_first: bool = False, by_layer: bool = False
) -> tuple[StreamedPass, nn.Module]:
    """Stream a module and compute its first token; the module comes back with all its weights.

    Args:
        subject: What to load and compute.
        place: Where.
        wait_first: Wait for every weight before computing: the usual way, over the same link.
        by_layer: Time each layer, with a hook on it.
    """
    module, ids = subject.build(), subject.prompt(place.torch_device)
    gc.collect()
    place.synchronize()
    began = time.perf_counter()
    with open_checkpoint(subject.path) as checkpoint, CopyEngine(place.device) as engine:
        marks = LayerMarks(module, subject, place) if by_layer else None
        called = time.perf_counter()
        loading = stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine)
        if wait_first:
            loading.wait()
        output = _first_token(subject, module, ids)
        ended = time.perf_counter()
        layer_seconds: dict[str, float] = {}
        if marks is not None:
            with marks:
                layer_seconds = marks.seconds()
        loading.wait()
        stats = loading.stats()
    found = StreamedPass(ended - began, ended - called, output.cpu(), residue(module), stats, layer_seconds)
    return found, module


def _first_token(subject: Subject, module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Compute, and bring the token to the host, which waits for it."""
    with torch.no_grad():
        output = subject.compute(module, ids)
        int(output.argmax())
    return output
