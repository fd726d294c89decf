"""Fill a module in place while it already computes.

Floor 4, part of `torch`. Decides memory, order and groups; the gate (`_gate`) does the waiting, `_module_load` ends
it. Read `_seats` for what of a checkpoint belongs where.
"""

from __future__ import annotations

import weakref
from itertools import chain
from typing import TYPE_CHECKING

import torch

from .._closing import Closing
from .._collector import collector_paused
from ._gate import arriving_load, without_gates
from ._groups import cut, layers_in_order
from ._memory import place, resolve_device
from ._module_load import ModuleLoad
from ._oversized import divide, start_streaming
from ._seats import fill_batch_counters, seat
from ._submit import Target, choose_engine, known_sums, submit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, LoadStats, RotationStats, Ticket
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ._seats import Seat, Seating
    from ._streamed_units import StreamedUnits


class ModuleStream(Closing):
    """Watch a module being filled; a context manager, whose end cancels what has not arrived.

    Made by `stream_module`. Nobody has to hold or wait for it: the module finishes by itself. Thread-safe.

    Attributes:
        ticket: The submitted plan, for its trace; sources are numbered as the checkpoint's shards.
        missing_keys: Names the module has and the checkpoint does not (`strict=False`); left as they were.
        unexpected_keys: Names the checkpoint has and the module does not (`strict=False`); not read.
        streamed_bytes: Bytes of the weights that pass through slots in every pass; 0 where all become resident.
    """

    def __init__(
        self, load: ModuleLoad, ticket: Ticket, seating: Seating, streamed: StreamedUnits | None = None
    ) -> None:
        self._load = load
        self._streamed = None if streamed is None else weakref.ref(streamed)  # the module's own
        self.streamed_bytes = 0 if streamed is None else streamed.nbytes
        self.ticket = ticket
        self.missing_keys = seating.missing_keys
        self.unexpected_keys = seating.unexpected_keys

    def __repr__(self) -> str:
        state = "done" if self.done else f"{self.progress():.0%} resident"
        return f"ModuleStream({state}, {self.ticket.group_count} groups)"

    @property
    def done(self) -> bool:
        """Whether the load is over: all is resident and nothing of it is left, or it failed."""
        return self._load.over

    def wait(self, timeout: float | None = None) -> None:
        """Block until all is resident and the module is an ordinary one.

        Args:
            timeout: Most seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It took longer; the load goes on.
            SourceError: Reading failed (`ShortReadError`, `ChangedError` among them).
            DeviceError: The device failed.
            StreamClosedError: The load was cancelled, or belongs to a parent process.
        """
        self._load.wait(timeout)

    def progress(self) -> float:
        """Return the share of bytes that are resident, from 0 to 1."""
        stats = self.ticket.stats()
        return stats.bytes_resident / stats.bytes_total if stats.bytes_total else 1.0

    def stats(self) -> LoadStats:
        """Return what the load did so far."""
        return self.ticket.stats()

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights that stay on the device, or will once they have arrived."""
        return self.ticket.stats().bytes_total

    def rotation_stats(self) -> RotationStats | None:
        """Return what was streamed so far; None where nothing is, or no longer."""
        streamed = None if self._streamed is None else self._streamed()
        return None if streamed is None else streamed.stats()

    def cancel(self) -> None:
        """Stop the load; using the module raises `StreamClosedError`. Does not block.

        No effect once it is done, unless weights are streamed: then the module ends with this.
        """
        self.ticket.cancel()
        if self._streamed is not None and (streamed := self._streamed()) is not None:
            streamed.cancel()

    def close(self) -> None:
        """Cancel what has not arrived, stop what is streamed, and wait for copies under way. Harmless when repeated."""
        self.cancel()
        self._load.join()
        if self._streamed is not None and (streamed := self._streamed()) is not None:
            streamed.close()


@collector_paused()
def stream_module(
    module: torch.nn.Module,
    checkpoint: Checkpoint,
    device: str | int | torch.device = "cuda",
    *,
    strict: bool = True,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> ModuleStream:
    """Fill a module's parameters and persistent buffers from a checkpoint, in place, and return at once.

    The module may be used right away, from any thread and CUDA stream: whatever touches a tensor that has not
    arrived waits for it, and it is read next. Tensors on the meta device become new ones of the file's dtype, at
    their final addresses; real ones are filled where they are. When all is resident every trace of the load is gone.

    What takes tensors past `__torch_function__` (`torch.tensor(p)`, a 0-dim tensor given as a number, `torch.func`,
    TorchScript, C++ extensions outside the dispatcher) cannot wait: call `wait` before it and before capturing a graph.

    Args:
        module: Built on the meta device, all or in part, or real. Buffers that are not saved must be real.
        checkpoint: Open; may be closed as soon as this returns.
        device: Where meta tensors go, and where real ones must be: "cuda", "cuda:<n>", a number of a CUDA device, a
            `torch.device`, or "cpu".
        strict: Refuse names that only one of the two has.
        options: How to read and stage; not together with `engine`. With `device_memory`, what exceeds it is streamed.
        engine: A copy engine of one's own. None: the one that loads to this device share.

    Raises:
        RuntimeError: Names, shapes, dtypes or devices do not fit (all are listed), or the module is still being
            filled by another stream.
        TypeError: The module loads itself in a way of its own, or torch lacks a dtype.
        ValueError: The device does not fit the engine, parameters overlap in memory, or `device_memory` is too small.
        DeviceError: There is no such device.
        StreamClosedError: The checkpoint is closed.
        torch.OutOfMemoryError: The device has not enough memory.

    Example:
        >>> with streamload.open(path) as checkpoint:
        ...     loading = stream_module(model, checkpoint, "cuda:0")
        >>> logits = model(tokens)  # runs while later layers arrive
        >>> loading.wait(timeout=60)
    """
    where = resolve_device(device)
    chosen_engine = choose_engine(where, options, engine)
    seating = seat(module, checkpoint, where, strict=strict)
    _refuse_unfinished([found.tensor for found, _ in seating.taken])
    division = divide(module, seating, checkpoint, chosen_engine.options.device_memory)
    layers = layers_in_order(division.resident, checkpoint, lambda pair: pair[1])
    groups = [group for layer in layers for group in cut(layer, lambda pair: pair[1].nbytes)]
    with without_gates():  # a failed load's gates stay closed until this one's take their place
        targets, blocks = _find_memory(groups, where)
        copies = [[target.copy() for target in group] for group in targets]
        memory = [*blocks, *(target.tensor.untyped_storage() for group in targets for target in group)]
    ticket = submit(chosen_engine, checkpoint, copies, where, memory, known_sums(checkpoint, chosen_engine))
    try:
        load = _occupy(groups, targets, ticket, where)
        fill_batch_counters(seating, where)
        streamed = start_streaming(module, division, chosen_engine, checkpoint, where, settle=lambda: load.wait(None))
    except BaseException:
        ticket.close()
        raise
    return ModuleStream(load, ticket, seating, streamed)


def _refuse_unfinished(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse a module whose load is not over; one whose load failed may be filled again."""
    for tensor in tensors:
        load = arriving_load(tensor)
        if isinstance(load, ModuleLoad) and not load.over:
            raise RuntimeError("the module is still being filled by another stream; wait for it, or close it")


def _find_memory(
    groups: Sequence[Sequence[tuple[Seat, TensorInfo]]], device: torch.device
) -> tuple[list[list[Target]], list[object]]:
    """Return each group's targets, over new blocks for what is on meta, and the blocks."""
    new = [info for group in groups for found, info in group if found.tensor.is_meta]
    placement = place(new, device)
    placed = iter(placement.tensors)
    targets = [
        [Target(info, next(placed) if found.tensor.is_meta else found.tensor) for found, info in group]
        for group in groups
    ]
    return targets, placement.blocks


def _occupy(
    groups: Sequence[Sequence[tuple[Seat, TensorInfo]]],
    targets: Sequence[Sequence[Target]],
    ticket: Ticket,
    device: torch.device,
) -> ModuleLoad:
    """Put tensors behind closed gates into their seats: nobody sees a byte too early, even if this is cut off."""
    tensors = [
        [_occupant(found.tensor, target) for (found, _), target in zip(group, members, strict=True)]
        for group, members in zip(groups, targets, strict=True)
    ]
    load = ModuleLoad(ticket, device, tensors)
    for (found, _), tensor in zip(chain(*groups), chain(*tensors), strict=True):
        found.put(tensor)
    return load


def _occupant(old: torch.Tensor, target: Target) -> torch.Tensor:
    """Return what is to sit in a seat: the tensor that is there, or one of its class over new memory."""
    if not old.is_meta:
        return old
    differentiable = target.tensor.dtype.is_floating_point or target.tensor.dtype.is_complex
    new = torch.Tensor._make_subclass(type(old), target.tensor, old.requires_grad and differentiable)
    new.__dict__.update(old.__dict__)
    return new
