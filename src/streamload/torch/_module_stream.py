"""Fill a module in place while it already computes.

Floor 4, part of `torch`. Decides memory, order and groups; the gate (`_gate`) does the waiting, `_module_load` ends
it. Read `_seats` for what of a checkpoint belongs where.
"""

from __future__ import annotations

import threading
from itertools import chain
from typing import TYPE_CHECKING

import torch

from .._closing import Closing
from .._collector import collector_paused
from ..errors import StreamClosedError
from ._block_hooks import hook_blocks, unhook_blocks
from ._delivery import Delivery, Group
from ._embedding import is_table
from ._gate import arriving_load, without_gates
from ._groups import cut, layers_in_order
from ._memory import place, resolve_device
from ._module_load import ModuleLoad
from ._seats import fill_batch_counters, seat
from ._sleep import Bed, give_memory, put_to_sleep, sleeps
from ._submit import Target, choose_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, LoadStats, Ticket
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ._seats import Seat, Seating

    Taken = tuple[Seat, TensorInfo]


class ModuleStream(Closing):
    """Watch a module being filled, and let it sleep; a context manager, whose end cancels what has not arrived.

    Made by `stream_module`. Nobody has to hold or wait for it: the module finishes by itself. Thread-safe.

    Attributes:
        ticket: The submitted plan, for its trace; sources are numbered as the checkpoint's shards. After `wake`
            another one.
        missing_keys: Names the module has and the checkpoint does not (`strict=False`); left as they were.
        unexpected_keys: Names the checkpoint has and the module does not (`strict=False`); not read.
    """

    def __init__(
        self, delivery: Delivery, groups: Sequence[Group], load: ModuleLoad, ticket: Ticket, seating: Seating
    ) -> None:
        self._delivery = delivery
        self._groups = groups
        self._load = load
        self.ticket = ticket
        self.missing_keys = seating.missing_keys
        self.unexpected_keys = seating.unexpected_keys
        self._lock = threading.Lock()  # serialises sleep, wake and close
        self._sleepers: list[list[tuple[torch.Tensor, Bed]]] | None = None  # by group; None: awake
        self._closed = False

    def __repr__(self) -> str:
        state = "asleep" if self.asleep else "done" if self.done else f"{self.progress():.0%} resident"
        return f"ModuleStream({state}, {len(self._groups)} groups)"

    @property
    def done(self) -> bool:
        """Whether the load is over: all is resident and nothing of it is left, or it failed, or the module sleeps."""
        return self._load.over

    @property
    def asleep(self) -> bool:
        """Whether the module's weights were taken off the device, by `sleep`."""
        return self._sleepers is not None

    @property
    def order(self) -> tuple[str, ...]:
        """The checkpoint's layers in the order in which they were used while they arrived, then the others.

        For `stream_module(order=…)`, at the next load of the same model: what a pass needs first then comes first.
        """
        used = [self._groups[group].layer for group in self._load.used]
        return tuple(dict.fromkeys([*used, *(group.layer for group in self._groups)]))

    def wait(self, timeout: float | None = None) -> None:
        """Block until all is resident and the module is an ordinary one.

        Args:
            timeout: Most seconds to wait; None waits for as long as it takes.

        Raises:
            TimeoutError: It took longer; the load goes on.
            SourceError: Reading failed (`ShortReadError`, `ChangedError` among them).
            DeviceError: The device failed.
            StreamClosedError: The load was cancelled, or belongs to a parent process, or the module is asleep.
        """
        if self.asleep:
            raise StreamClosedError("the module is asleep; wake() brings its weights back")
        self._load.wait(timeout)

    def progress(self) -> float:
        """Return the share of bytes that are resident, from 0 to 1."""
        if self.asleep:
            return 0.0
        stats = self.ticket.stats()
        return stats.bytes_resident / stats.bytes_total if stats.bytes_total else 1.0

    def stats(self) -> LoadStats:
        """Return what the load did so far; after `wake`, the load that it started."""
        return self.ticket.stats()

    def cancel(self) -> None:
        """Stop the load; using the module raises `StreamClosedError`. No effect once it is done; does not block."""
        self.ticket.cancel()

    def sleep(self) -> None:
        """Free the device memory of the weights, which are in their files; blocks until the device is idle.

        Parameters and buffers stay the objects they are, with shape, dtype and device; using one raises
        `StreamClosedError` until `wake`. A load under way is cancelled. No effect on a module that sleeps already. Call
        it while nothing computes with the module. Views and copies that others hold keep their memory.

        Raises:
            RuntimeError: A weight was written to, converted, moved or replaced since it was loaded: waking would lose
                that. Nothing was freed.
            StreamClosedError: This was closed, or the load belongs to a parent process.
        """
        with self._lock:
            self._check_open()
            if self._sleepers is not None:
                return
            rank = {layer: number for number, layer in enumerate(self.order)}
            self._groups = sorted(self._groups, key=lambda group: rank[group.layer])
            found = [[(bed, bed.tensor()) for bed in group.beds] for group in self._groups]
            self.ticket.cancel()
            self._load.join()
            sleepers = [[(tensor, bed) for bed, tensor in members if tensor is not None] for members in found]
            put_to_sleep([tensor for tensor, _ in chain(*sleepers)], self._delivery.device)
            self._sleepers = sleepers

    def wake(self) -> None:
        """Stream the weights back, in the order in which they were used; returns at once, as `stream_module` does.

        The module may be used right away. Its tensors are the same objects, at other addresses: graphs captured before
        must be captured again. No effect on a module that is awake, or waking; one whose load failed is loaded again.

        Raises:
            ChangedError, FileNotFoundError, PermissionError: A file is no longer the one whose header was read; the
                module sleeps on.
            torch.OutOfMemoryError: The device has not enough memory; the module sleeps on.
            DeviceError: The device refused.
            RuntimeError: Another stream has filled the module meanwhile.
            StreamClosedError: This was closed, or the engine it was made with is.
        """
        if not self.asleep and self._load.failed:
            self.sleep()  # its memory goes first
        with self._lock:
            self._check_open()
            if self._sleepers is None:
                return
            self.ticket, self._load = self._delivery.again(self._sleepers)
            self._sleepers = None

    def close(self) -> None:
        """Cancel what has not arrived and wait for copies under way. Harmless when repeated."""
        self.cancel()
        self._load.join()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError("the ModuleStream is closed")


@collector_paused()
def stream_module(
    module: torch.nn.Module,
    checkpoint: Checkpoint,
    device: str | int | torch.device = "cuda",
    *,
    strict: bool = True,
    order: Sequence[str] = (),
    block_hooks: bool = False,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> ModuleStream:
    """Fill a module's parameters and persistent buffers from a checkpoint, in place, and return at once.

    The module may be used right away, from any thread and CUDA stream: whatever touches a tensor that has not
    arrived waits for it, and it is read next. Tensors on the meta device become new ones of the file's dtype, at
    their final addresses; real ones are filled where they are. When all is resident every trace of the load is gone.

    Layers come in the module's order. Large embedding tables come last: the rows that a pass asks for meanwhile are
    read by themselves, where nothing is differentiated (`torch.no_grad`, or a table that requires no grad).

    What takes tensors past `__torch_function__` (`torch.tensor(p)`, a 0-dim tensor given as a number, `torch.func`,
    TorchScript, C++ extensions outside the dispatcher) cannot wait: call `wait` before it and before capturing a graph,
    or let `block_hooks` wait for all of a block before its forward.

    Args:
        module: Built on the meta device, all or in part, or real. Buffers that are not saved must be real.
        checkpoint: Open; may be closed as soon as this returns.
        device: Where meta tensors go, and where real ones must be: "cuda", "cuda:<n>", a number of a CUDA device, a
            `torch.device`, or "cpu".
        strict: Refuse names that only one of the two has.
        order: Layers to bring first, as `ModuleStream.order` of an earlier load of the same model named them.
        block_hooks: Have each block wait for all of its tensors before its forward, by hooks that are gone when it is
            resident. While they are there the block can be neither copied nor pickled. Not for `wake`.
        options: How to read and stage; not together with `engine`.
        engine: A copy engine of one's own. None: the one that loads to this device share.

    Raises:
        RuntimeError: Names, shapes, dtypes or devices do not fit (all are listed), or the module is still being
            filled by another stream.
        TypeError: The module loads itself in a way of its own, or torch lacks a dtype.
        ValueError: The device does not fit the engine, or parameters overlap in memory.
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
    delivery = Delivery(checkpoint, where, chosen_engine, shared=engine is None)
    groups = _arrange(seating.taken, checkpoint, order)
    with without_gates():  # a failed load's gates stay closed until this one's take their place
        targets, blocks = _find_memory([members for _, members in groups], where)
    ticket = delivery.submit(chosen_engine, targets, blocks)
    try:
        tensors = [
            [_occupant(found.tensor, target) for (found, _), target in zip(members, filled, strict=True)]
            for (_, members), filled in zip(groups, targets, strict=True)
        ]
        known = [
            Group(layer, [_bed(pair, tensor, checkpoint) for pair, tensor in zip(members, seated, strict=True)])
            for (layer, members), seated in zip(groups, tensors, strict=True)
        ]
        load = delivery.watch(ticket, tensors, [group.beds for group in known])
        # Behind closed gates: nobody sees a byte too early, even if this is cut off.
        for (found, _), tensor in zip(chain(*(members for _, members in groups)), chain(*tensors), strict=True):
            found.put(tensor)
        fill_batch_counters(seating, where)
        unhook_blocks(module)
        if block_hooks:
            hook_blocks(module, [group.layer for group in known], load)
    except BaseException:
        ticket.close()
        raise
    return ModuleStream(delivery, known, load, ticket, seating)


def _arrange(taken: Sequence[Taken], checkpoint: Checkpoint, order: Sequence[str]) -> list[tuple[str, list[Taken]]]:
    """Cut what is loaded into groups in the order of their use: layer and members of each."""
    layers = layers_in_order(
        taken, checkpoint, lambda pair: pair[1], order=order, last=lambda pair: is_table(*pair, checkpoint)
    )
    return [(layer, group) for layer, members in layers for group in cut(members, lambda pair: pair[1].nbytes)]


def _bed(pair: Taken, tensor: torch.Tensor, checkpoint: Checkpoint) -> Bed:
    found, info = pair
    return Bed(found, tensor, info, table=is_table(found, info, checkpoint))


def _refuse_unfinished(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse a module whose load is not over; one whose load failed may be filled again."""
    for tensor in tensors:
        load = arriving_load(tensor)
        if isinstance(load, ModuleLoad) and not load.over:
            raise RuntimeError("the module is still being filled by another stream; wait for it, or close it")


def _find_memory(groups: Sequence[Sequence[Taken]], device: torch.device) -> tuple[list[list[Target]], list[object]]:
    """Return each group's targets, over new blocks for what is on meta, and the blocks."""
    new = [info for group in groups for found, info in group if _lacks_memory(found.tensor)]
    placement = place(new, device)
    placed = iter(placement.tensors)
    targets = [
        [Target(info, next(placed) if _lacks_memory(found.tensor) else found.tensor) for found, info in group]
        for group in groups
    ]
    return targets, placement.blocks


def _lacks_memory(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or sleeps(tensor)


def _occupant(old: torch.Tensor, target: Target) -> torch.Tensor:
    """Return what is to sit in a seat: the tensor that is there, or one of its class over new memory."""
    if not old.is_meta:
        if sleeps(old):
            give_memory([old], [target.tensor])
        return old
    differentiable = target.tensor.dtype.is_floating_point or target.tensor.dtype.is_complex
    new = torch.Tensor._make_subclass(type(old), target.tensor, old.requires_grad and differentiable)
    new.__dict__.update(old.__dict__)
    return new
