"""Mark when each part of a module computes, and make spans of it.

Part of `_models`; needs torch. A mark is set, by a hook, before every submodule that has parameters of its own. Between
one mark and the next the device computes for the first one's layer, but for the time that it waits for the parameters:
a part's computing begins at its mark or when its last byte has arrived, whichever is later.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from .._trace import Lane, Span
from ..torch._history import transfer_spans
from ._clocks import open_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from .._checkpoint import Checkpoint
    from .._engine import ChunkTrace

__all__ = ["Marks"]


class Marks:
    """Time the parts of one forward; the hooks go when the spans are made.

    Args:
        module: What will compute, once.
        device: "cpu", or the CUDA device whose current stream computes.
    """

    def __init__(self, module: nn.Module, device: str) -> None:
        self._marked: list[list[str]] = []  # the parameters each mark was set for
        self._clock = open_clock(device)
        self._handles = [
            part.register_forward_pre_hook(self._hook([f"{name}.{own}" if name else own for own in part._parameters]))
            for name, part in module.named_modules()
            if part._parameters
        ]
        self._handles.append(module.register_forward_hook(self._hook([])))

    def spans(
        self, began: float, checkpoint: Checkpoint, chunks: Sequence[ChunkTrace], submitted: float
    ) -> tuple[Span, ...]:
        """Return what was read, copied and computed, and take the hooks away.

        Args:
            began: When the run began, on `time.perf_counter`'s clock.
            checkpoint: What was loaded.
            chunks: The load's reads and copies, in seconds since it was submitted; none where nobody knows.
            submitted: When it was submitted, in seconds since the run began.
        """
        for handle in self._handles:
            handle.remove()
        layer_of = {tensor.name: layer.name for layer in checkpoint.layers for tensor in layer.tensors}
        arrived = _arrivals(checkpoint, chunks, submitted)
        computing: list[Span] = []
        times = [seconds - began for seconds in self._clock.seconds()]
        layer = checkpoint.layers[0].name
        for names, mark, following in zip(self._marked, times, times[1:], strict=False):
            layer = next((layer_of[name] for name in names if name in layer_of), layer)
            start = max([mark, *(arrived[name] for name in names if name in arrived)])
            if following > start:
                computing.append(Span(Lane.COMPUTE, layer, start, following))
        return (*transfer_spans(chunks, _layer_at(checkpoint), submitted), *computing)

    def _hook(self, parameters: list[str]) -> Callable[..., None]:
        def mark(*_: object) -> None:
            self._marked.append(parameters)
            self._clock.mark()

        return mark


def _layer_at(checkpoint: Checkpoint) -> Callable[[ChunkTrace], str]:
    """Return what tells the layer of a read's first byte."""
    source_of = _sources_of(checkpoint)
    tensors = [(tensor, layer.name) for layer in checkpoint.layers for tensor in layer.tensors if tensor.nbytes]
    layer_of = {(source_of[tensor.shard], tensor.start): layer for tensor, layer in tensors}
    starts = sorted(layer_of)
    return lambda chunk: layer_of[starts[_last_at_or_before(starts, (chunk.source, chunk.offset))]]


def _arrivals(checkpoint: Checkpoint, chunks: Sequence[ChunkTrace], submitted: float) -> dict[str, float]:
    """Return for each tensor when the group it is waited for with was complete."""
    group_done: dict[int, float] = {}
    for chunk in chunks:
        group_done[chunk.group] = max(group_done.get(chunk.group, 0.0), chunk.copy_done + submitted)
    begins = sorted(chunks, key=lambda chunk: (chunk.source, chunk.offset))
    keys = [(chunk.source, chunk.offset) for chunk in begins]
    source_of = _sources_of(checkpoint)
    found: dict[str, float] = {}
    for tensor in checkpoint.values():
        if tensor.nbytes and begins:
            chunk = begins[_last_at_or_before(keys, (source_of[tensor.shard], tensor.start))]
            found[tensor.name] = group_done[chunk.group]
    return found


def _sources_of(checkpoint: Checkpoint) -> dict[int, int]:
    """Return how a ticket that reads the whole checkpoint numbers its shards: those without bytes are not opened."""
    read = sorted({tensor.shard for tensor in checkpoint.values() if tensor.nbytes})
    return {shard: number for number, shard in enumerate(read)}


def _last_at_or_before(keys: Sequence[tuple[int, int]], key: tuple[int, int]) -> int:
    return max(bisect_right(keys, key) - 1, 0)
