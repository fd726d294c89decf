"""Run synthetic inputs through a model, shape by shape, so that the first request meets nothing for the first time.

Part of `_coldstart`; needs torch. Kernels are chosen and compiled, graphs traced and workspaces allocated at the first
call of a shape. Nothing here waits for weights: the model does, where they are still arriving.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Final

import torch

from .._units import say_seconds
from ._table import columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ._recorder import ColdStartRecorder

__all__ = ["WarmupReport", "WarmupShape", "warmup"]

_PHASE: Final = "warm_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupShape:
    """Hold what one shape of inputs took, in seconds.

    Attributes:
        batch_size: Sequences of the input.
        sequence_length: Tokens of each.
        first_seconds: The first call, all that follows included.
        waiting_seconds: Of it, what computing waited for weights that had not arrived; 0 where nobody counts that.
        compile_seconds: Of it, what torch.compile took.
        stable_seconds: A later call; the median of `repeat`.
    """

    batch_size: int
    sequence_length: int
    first_seconds: float
    waiting_seconds: float
    compile_seconds: float
    stable_seconds: float


@dataclass(frozen=True, slots=True)
class WarmupReport:
    """Hold what a warm-up took.

    Attributes:
        shapes: One for each shape, in the order in which they were run.
    """

    shapes: tuple[WarmupShape, ...]

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        return {"kind": "warm-up", "shapes": [asdict(shape) for shape in self.shapes]}

    def table(self) -> str:
        """Return it as text, a line for each shape."""
        rows = [
            [
                f"{shape.batch_size} × {shape.sequence_length}",
                *map(
                    say_seconds,
                    (shape.first_seconds, shape.waiting_seconds, shape.compile_seconds, shape.stable_seconds),
                ),
            ]
            for shape in self.shapes
        ]
        return columns(["batch × tokens", "first", "waited", "compiled", "stable"], rows, right=(0, 1, 2, 3, 4))


def warmup(
    model: torch.nn.Module,
    *,
    batch_sizes: Sequence[int] = (1,),
    sequence_lengths: Sequence[int] = (1, 128),
    repeat: int = 3,
    inputs: Callable[[int, int], tuple[object, ...]] | None = None,
    phases: ColdStartRecorder | None = None,
) -> WarmupReport:
    """Run synthetic inputs of every shape through a model, `1 + repeat` times each, and tell first from later calls.

    May be called while weights still arrive: the first call waits, layer by layer, for those it needs. Nothing is
    differentiated. Blocks until the device has computed.

    Args:
        model: Takes a tensor of token ids, int64 of shape (batch size, sequence length), on the device of its weights.
        batch_sizes: To run, each with each of `sequence_lengths`, the largest shapes first: what they need in memory
            serves the others, too.
        sequence_lengths: To run.
        repeat: Calls of each shape after its first, at least 1.
        inputs: Makes what the model is called with, from batch size and sequence length; None calls it with zeros.
        phases: Gets the phases `warm_up` and `compilation`, and the moment `warm_up` at the end.

    Raises:
        ValueError: There are no shapes, or a number is less than 1.
        SourceError, DeviceError, StreamClosedError: Weights did not arrive.
        Exception: Whatever the model raises.

    Example:
        >>> report = streamload.warmup(model, batch_sizes=(1, 8), sequence_lengths=(128, 2048), phases=phases)
        >>> print(report.table())
    """
    if not batch_sizes or not sequence_lengths or min(*batch_sizes, *sequence_lengths, repeat) < 1:
        raise ValueError("a warm-up needs batch sizes, sequence lengths and repeat, each at least 1")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    make = _zeros(device) if inputs is None else inputs
    shapes = sorted(product(set(batch_sizes), set(sequence_lengths)), key=lambda shape: (-shape[0] * shape[1], shape))
    with torch.inference_mode():
        found = [_warm_shape(model, batch, length, make(batch, length), repeat, phases) for batch, length in shapes]
    if phases is not None:
        phases.reached(_PHASE)
    return WarmupReport(tuple(found))


def _zeros(device: torch.device) -> Callable[[int, int], tuple[object, ...]]:
    return lambda batch, length: (torch.zeros(batch, length, dtype=torch.int64, device=device),)


def _warm_shape(
    model: torch.nn.Module,
    batch: int,
    length: int,
    given: tuple[object, ...],
    repeat: int,
    phases: ColdStartRecorder | None,
) -> WarmupShape:
    """Call a model with one shape."""
    with ExitStack() as stack:
        if phases is not None:
            stack.enter_context(phases.phase(_PHASE, f"{batch} × {length}"))
        stalled = _stall_seconds(model)
        with _compilations(phases) as compiled:
            first = _timed(model, given)
        stalled = _stall_seconds(model) - stalled
        stable = [_timed(model, given) for _ in range(repeat)]
    return WarmupShape(
        batch_size=batch,
        sequence_length=length,
        first_seconds=first,
        waiting_seconds=stalled,
        compile_seconds=sum(compiled),
        stable_seconds=median(stable),
    )


def _timed(model: torch.nn.Module, given: tuple[object, ...]) -> float:
    began = time.monotonic()
    model(*given)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types for it
        torch.cuda.synchronize()
    return time.monotonic() - began


def _stall_seconds(model: torch.nn.Module) -> float:
    """Return what computing has waited for weights so far, where the model is watched by a handle of its own."""
    handle = getattr(model, "streamload", None)
    return 0.0 if handle is None else float(handle.stats().stall_seconds)


@contextmanager
def _compilations(phases: ColdStartRecorder | None) -> Iterator[list[float]]:
    """Give the seconds of every compilation in this context, in a list that fills; those of other threads, too."""
    found: list[float] = []
    callbacks = sys.modules.get("torch._dynamo.callback")
    if callbacks is None:  # nothing is compiled: importing it takes seconds
        yield found
        return
    began: list[float] = []

    def start(*_: object) -> None:
        began.append(time.monotonic())

    def end(*_: object) -> None:
        if began:
            start_at, end_at = began.pop(), time.monotonic()
            found.append(end_at - start_at)
            if phases is not None:
                phases.add_phase("compilation", "", start_at, end_at)

    known = callbacks.callback_handler
    known.register_start_callback(start)
    known.register_end_callback(end)
    try:
        yield found
    finally:
        known.remove_start_callback(start)
        known.remove_end_callback(end)
