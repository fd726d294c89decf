"""Mark when each part of a module computes, and make a timeline of it.

Floor 6. A mark is set, by a hook, before every submodule that has parameters of its own. Between one mark and the
next the device computes for the first one's layer, but for the time that it waits for the parameters: a part's
computing begins at its mark or when its last byte has arrived, whichever is later.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from .._models import open_clock
from .._trace import Lane, Span, in_link_order, in_tracks
from ._timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from .._checkpoint import Checkpoint
    from .._engine import ChunkTrace

__all__ = ["Marks"]


class Marks:
    """Time the parts of one forward; the hooks go when the timeline is made.

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

    def timeline(
        self,
        title: str,
        began: float,
        checkpoint: Checkpoint,
        trace: Sequence[ChunkTrace],
        submitted: float,
        first_token: float,
        returned: float,
    ) -> Timeline:
        """Return what happened, and take the hooks away.

        Args:
            title: Of the timeline.
            began: When the run began, on `time.perf_counter`'s clock.
            checkpoint: What was loaded.
            trace: The load's reads and copies, in seconds since it was submitted.
            submitted: When it was submitted, in seconds since the run began.
            first_token: When the first token was there, likewise.
            returned: When the loading call had returned, likewise.
        """
        for handle in self._handles:
            handle.remove()
        layer_of = {tensor.name: layer.name for layer in checkpoint.layers for tensor in layer.tensors}
        transfers = _transfers(checkpoint, trace, submitted)
        arrived = _arrivals(checkpoint, trace, submitted)
        computing: list[Span] = []
        times = [seconds - began for seconds in self._clock.seconds()]
        layer = checkpoint.layers[0].name
        for names, mark, following in zip(self._marked, times, times[1:], strict=False):
            layer = next((layer_of[name] for name in names if name in layer_of), layer)
            start = max([mark, *(arrived[name] for name in names if name in arrived)])
            if following > start:
                computing.append(Span(Lane.COMPUTE, layer, start, following))
        layers = tuple(layer.name for layer in checkpoint.layers)
        return Timeline(title, layers, tuple(transfers + computing), first_token, returned)

    def _hook(self, parameters: list[str]) -> Callable[..., None]:
        def mark(*_: object) -> None:
            self._marked.append(parameters)
            self._clock.mark()

        return mark


def _transfers(checkpoint: Checkpoint, trace: Sequence[ChunkTrace], submitted: float) -> list[Span]:
    """Return the reads and copies, each for the layer its first byte belongs to."""
    layer_at = {(tensor.shard, tensor.start): layer.name for layer in checkpoint.layers for tensor in layer.tensors}
    starts = sorted(layer_at)
    reads: list[Span] = []
    copies: list[Span] = []
    for chunk in trace:
        layer = layer_at[starts[_last_at_or_before(starts, (chunk.source, chunk.offset))]]
        begin, end = chunk.read_start + submitted, chunk.read_end + submitted
        reads.append(Span(Lane.READ, layer, begin, end, chunk.nbytes, chunk.thread))
        begin, end = chunk.copy_issued + submitted, chunk.copy_done + submitted
        copies.append(Span(Lane.COPY, layer, begin, end, chunk.nbytes))
    return in_tracks(reads) + in_link_order(copies)


def _arrivals(checkpoint: Checkpoint, trace: Sequence[ChunkTrace], submitted: float) -> dict[str, float]:
    """Return for each tensor when the group it is waited for with was complete."""
    group_done: dict[int, float] = {}
    for chunk in trace:
        group_done[chunk.group] = max(group_done.get(chunk.group, 0.0), chunk.copy_done + submitted)
    begins = sorted(trace, key=lambda chunk: (chunk.source, chunk.offset))
    keys = [(chunk.source, chunk.offset) for chunk in begins]
    found: dict[str, float] = {}
    for tensor in checkpoint.values():
        if tensor.nbytes and begins:
            chunk = begins[_last_at_or_before(keys, (tensor.shard, tensor.start))]
            found[tensor.name] = group_done[chunk.group]
    return found


def _last_at_or_before(keys: Sequence[tuple[int, int]], key: tuple[int, int]) -> int:
    return max(bisect_right(keys, key) - 1, 0)
