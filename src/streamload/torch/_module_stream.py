"""Fill a module in place while it already computes.

Floor 4, part of `torch`. Decides memory, order and groups; the gate (`_gate`) does the waiting, `_module_load` ends
it. Read `_seats` for what of a checkpoint belongs where.
"""

from __future__ import annotations

import sys
import threading
import weakref
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .._closing import Closing
from .._collector import collector_paused
from .._trace import write_trace
from ..errors import StreamClosedError
from ._block_hooks import hook_blocks, unhook_blocks
from ._delivery import Delivery
from ._filling import refuse_unfinished, start_filling
from ._history import load_moments, load_trace
from ._memory import resolve_device
from ._oversized import divide, start_streaming
from ._seats import fill_batch_counters, seat
from ._sleep import put_to_sleep
from ._submit import choose_engine

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, LoadMoments, LoadStats, RotationStats
    from .._trace import Trace
    from ..options import StreamOptions
    from ._delivery import Group
    from ._filling import Filling
    from ._module_load import ModuleLoad
    from ._oversized import Division
    from ._seats import Seating
    from ._sleep import Bed
    from ._streamed_units import StreamedUnits


class ModuleStream(Closing):
    """Watch a module being filled, and let it sleep; a context manager, whose end cancels what has not arrived.

    Made by `stream_module`. Nobody has to hold or wait for it: the module finishes by itself. Thread-safe.

    Where weights exceed `StreamOptions.device_memory`, what stays is filled like this, and `wait`, `done`, `progress`
    and `stats` are about it; the rest is streamed for as long as the module lives, or until `close`.

    Attributes:
        ticket: The submitted plan, for its trace; sources are numbered as the checkpoint's shards. After `wake`
            another one.
        missing_keys: Names the module has and the checkpoint does not (`strict=False`); left as they were.
        unexpected_keys: Names the checkpoint has and the module does not (`strict=False`); not read.
        streamed_bytes: Bytes of the weights that pass through slots in every pass; 0 where all become resident.
    """

    def __init__(
        self,
        delivery: Delivery,
        filling: Filling,
        seating: Seating,
        streamed: StreamedUnits | None,
        *,
        hooked: torch.nn.Module | None,
    ) -> None:
        self._delivery = delivery
        self._groups: Sequence[Group] = filling.groups
        self._load = filling.load
        self._streamed = None if streamed is None else weakref.ref(streamed)  # the module's own
        self.streamed_bytes = 0 if streamed is None else streamed.nbytes
        self.ticket = filling.ticket
        self.missing_keys = seating.missing_keys
        self.unexpected_keys = seating.unexpected_keys
        self._hooked = None if hooked is None else weakref.ref(hooked)  # the module, if its blocks wait by hooks
        self._lock = threading.RLock()  # serialises sleep, wake and close
        self._sleepers: list[list[tuple[torch.Tensor, Bed]]] | None = None  # by group; None: awake
        self._resting: tuple[torch.nn.Module, Division] | None = None  # what was streamed, while it sleeps
        self._closed = False

    def __repr__(self) -> str:
        failed = "closed" if self._closed else "failed"
        state = failed if self._load.failed else "done" if self.done else f"{self.progress():.0%} resident"
        streamed = f", {self.streamed_bytes} bytes streamed in each pass" if self.streamed_bytes else ""
        return f"ModuleStream({'asleep' if self.asleep else state}{streamed})"

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
        # Asleep, the groups are sorted by their use, and the load that numbered them is over.
        used = [] if self.asleep else [self._groups[group].layer for group in self._load.used]
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

    def moments(self) -> LoadMoments:
        """Return when the load did what: headers read, weights asked for, each layer resident, each first used."""
        return load_moments(self._delivery.checkpoint, self.ticket, self._layers(), self._load.used)

    def trace(self) -> Trace:
        """Return what the load did when: reads and copies by layer, and on the CPU what is known of computing.

        Of what is streamed in every pass there is nothing in it.

        Raises:
            StreamClosedError: The module is asleep.
        """
        if self.asleep:
            raise StreamClosedError("the module is asleep; its load's trace is gone")
        title = f"load of {self._delivery.checkpoint.url}"
        on_host = self._delivery.device.type == "cpu"
        return load_trace(title, self.ticket, self._layers(), self.moments(), computes=on_host)

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write `trace` as JSON that https://ui.perfetto.dev and chrome://tracing open; complete once the load is done.

        Raises:
            OSError: The file cannot be written.
            StreamClosedError: The module is asleep.
        """
        write_trace([self.trace()], Path(path))

    def _layers(self) -> list[str]:
        """Return the layer of each of the ticket's groups; none where they are sorted otherwise, asleep."""
        return [] if self.asleep else [group.layer for group in self._groups]

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights that stay on the device, or will once they have arrived."""
        return self.ticket.stats().bytes_total

    def rotation_stats(self) -> RotationStats | None:
        """Return what was streamed since the load or the last `wake`; None where nothing is, or no longer.

        The slots of the next pass are filled ahead of it, so there is more than the passes so far have used.
        """
        streamed = self._passing()
        return None if streamed is None else streamed.stats()

    def cancel(self) -> None:
        """Stop the load; using the module raises `StreamClosedError`. Does not block.

        No effect once it is done, unless weights are streamed: then the module ends with this.
        """
        self.ticket.cancel()
        if (streamed := self._passing()) is not None:
            streamed.cancel()

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
            groups = sorted(self._groups, key=lambda group: rank[group.layer])
            found = [[(bed, bed.tensor()) for bed in group.beds] for group in groups]
            self.ticket.cancel()
            self._load.join()
            if (streamed := self._passing()) is not None:
                self._resting = streamed.sleep()
            sleepers = [[(tensor, bed) for bed, tensor in members if tensor is not None] for members in found]
            self._groups, self._sleepers = groups, sleepers  # first: what is cut off here, wake() brings back
            put_to_sleep([tensor for tensor, _ in chain(*sleepers)], self._delivery.device)

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
        streamed = self._passing()
        if not self.asleep and (self._load.failed or (streamed is not None and streamed.failed)):
            self.sleep()  # its memory goes first
        with self._lock:
            self._check_open()
            if self._sleepers is None:
                return
            self.ticket, self._load = self._delivery.again(self._sleepers)
            try:
                self._resume()
            except BaseException:  # all of it sleeps on
                self.ticket.cancel()
                self._load.join()
                put_to_sleep([tensor for tensor, _ in chain(*self._sleepers)], self._delivery.device)
                raise
            self._sleepers = self._resting = None

    def _resume(self) -> None:
        """Do for a load that wakes what `stream_module` does for the first."""
        if self._hooked is not None and (module := self._hooked()) is not None:
            _hook(list(module.modules()), self._groups, self._load, block_hooks=True)
        if self._resting is not None:
            delivery = self._delivery
            streamed = start_streaming(*self._resting, delivery.engine(), delivery, self._load)
            self._streamed = None if streamed is None else weakref.ref(streamed)

    def close(self) -> None:
        """Cancel what has not arrived, stop what is streamed, and wait for copies under way. Harmless when repeated."""
        with self._lock:
            self._closed = True
            self._load.close_early()
            self.cancel()
            self._load.join()
            if (streamed := self._passing()) is not None:
                streamed.close()

    def _passing(self) -> StreamedUnits | None:
        """Return what streams weights through slots, if anything does."""
        return None if self._streamed is None else self._streamed()

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
    Layers come in the module's order, large embedding tables last: the rows that a pass asks for meanwhile are read by
    themselves, where nothing is differentiated (`torch.no_grad`, or a table that requires no grad). What takes tensors
    past `__torch_function__` (`torch.tensor(p)`, `torch.func`, C++ extensions) cannot wait: `wait` or `block_hooks` do.

    Args:
        module: Built on the meta device, all or in part, or real. Buffers that are not saved must be real.
        checkpoint: Open; may be closed as soon as this returns.
        device: Of meta tensors, and where real ones must be: "cuda", "cuda:<n>", a number, a `torch.device`, or "cpu".
        strict: Refuse names that only one of the two has.
        order: Layers to bring first, as `ModuleStream.order` of an earlier load of the same model named them.
        block_hooks: Have each block wait for all of its tensors before its forward, by hooks that are gone when it is
            resident. While they are there the block can be neither copied nor pickled.
        options: How to read and stage; not together with `engine`. With `device_memory`, what exceeds it is streamed.
        engine: A copy engine of one's own. None: the one that loads to this device share.

    Raises:
        RuntimeError: Names, shapes, dtypes or devices do not fit (all are listed), or another stream still fills it.
        TypeError: The module loads itself in a way of its own, or torch lacks a dtype.
        ValueError: The device does not fit the engine, parameters overlap in memory, or `device_memory` is too small.
        DeviceError: There is no such device.
        StreamClosedError: The checkpoint is closed.
        torch.OutOfMemoryError: The device is full.

    Example:
        >>> with streamload.open(path) as checkpoint:
        ...     loading = stream_module(model, checkpoint, "cuda:0")
        >>> logits = model(tokens)  # runs while later layers arrive
        >>> loading.wait(timeout=60)
    """
    where = resolve_device(device)
    chosen_engine = choose_engine(where, options, engine, streams=True)
    seating = seat(module, checkpoint, where, strict=strict)
    refuse_unfinished([found.tensor for found, _ in seating.taken])
    division = divide(module, seating, checkpoint, chosen_engine.options.device_memory)
    delivery = Delivery(checkpoint, where, chosen_engine, shared=engine is None)
    filling = start_filling(delivery, chosen_engine, division.resident, order)
    try:
        fill_batch_counters(seating, where)
        _hook(seating.owners, filling.groups, filling.load, block_hooks=block_hooks)
        streamed = start_streaming(module, division, chosen_engine, delivery, filling.load)
    except BaseException:
        filling.ticket.close()
        raise
    return _told(ModuleStream(delivery, filling, seating, streamed, hooked=module if block_hooks else None), module)


def _told(stream: ModuleStream, module: torch.nn.Module) -> ModuleStream:
    """Tell whoever measures this process's start (`_coldstart`)."""
    sys.audit("streamload.coldstart.load", stream, "model", module)
    return stream


def _hook(owners: Sequence[torch.nn.Module], groups: Sequence[Group], load: ModuleLoad, *, block_hooks: bool) -> None:
    """Take off what a load that failed left on modules, the whole one first; put hooks on blocks, if asked for."""
    unhook_blocks(owners)
    if block_hooks:
        hook_blocks(owners[0], [group.layer for group in groups], load)
