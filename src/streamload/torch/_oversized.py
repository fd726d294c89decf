"""Divide a module whose weights exceed the device memory allowed: what stays, and what passes through slots.

Floor 4, part of `torch`. What stays is loaded as any module is, and leaves nothing behind; only what is streamed keeps
a gate and a stand-in for its module's forward. Read `_units` for what a unit is, `_streamed_units` for what runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from .._checksums import expected_sums
from .._plan import SlotPlan, make_plan, plan_slots
from ._dtypes import torch_dtype, torch_shape
from ._gate import open_gate
from ._host_copies import HostCopies, Layout
from ._memory import ALIGNMENT, BLOCK_BYTES, allocate, current_stream, tensor_over
from ._sleep import give_memory, sleeps
from ._streamed_gate import own_attributes, plain_kind, streaming_of
from ._streamed_units import Origin, StreamedUnits
from ._submit import APART_BYTES, known_sums
from ._units import Taken, Unit, cut_into_units, padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, Rotation
    from .._plan import LoadPlan
    from ._delivery import Delivery
    from ._module_load import ModuleLoad
    from ._seats import Seating

_ALL_STAYS = SlotPlan((), (), (), 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Division:
    """What stays on the device, and what passes through slots.

    Attributes:
        resident: Seat and tensor of the checkpoint of all that stays, in the module's order.
        streamed: Units that pass through slots, in the order of a pass.
        slots: How they take turns.
    """

    resident: list[Taken]
    streamed: list[Unit] = field(default_factory=list)
    slots: SlotPlan = _ALL_STAYS


def divide(module: torch.nn.Module, seating: Seating, checkpoint: Checkpoint, device_memory: int | None) -> Division:
    """Decide what of a module stays on its device, whose memory for weights is limited.

    Counted are the weights that the checkpoint fills, padding included, and the slots; not what the module computes.

    Raises:
        ValueError: The memory is too small; the text says how much is needed at least.
        RuntimeError: The module's weights are streamed already.
    """
    if any(streaming_of(found.tensor) is not None for found, _ in seating.taken):
        raise RuntimeError("the module's weights are streamed; close its ModuleStream before it is filled again")
    total = sum([padded(info.nbytes) for _, info in seating.taken])
    slack = (2 * total // BLOCK_BYTES + 2) * ALIGNMENT  # blocks begin at a multiple: `place`, `allocate`
    if device_memory is None or total + slack <= device_memory:
        return Division(seating.taken)
    cut = cut_into_units(module, seating.taken, checkpoint)
    fixed = sum([padded(info.nbytes) for _, info in cut.fixed]) + slack
    largest = max(cut.units, key=lambda unit: unit.nbytes, default=None)
    needed = fixed + (0 if largest is None else largest.nbytes)
    if largest is None or needed > device_memory:
        slot = "" if largest is None else f", and {largest.nbytes} for one slot of {largest.path!r}, the largest unit"
        raise ValueError(
            f"device_memory={device_memory} is too small for {type(module).__name__}, whose weights take {total} "
            f"bytes: at least {needed} are needed, {fixed} for what has to stay{slot}"
        )
    sizes = [unit.nbytes for unit in cut.units]
    slots = plan_slots(sizes, range(len(sizes)), budget=device_memory, fixed=fixed)
    streamed = [cut.units[number] for number in slots.streamed]
    passing = {id(found) for unit in streamed for found, _ in unit.taken}
    return Division([pair for pair in seating.taken if id(pair[0]) not in passing], streamed, slots)


def start_streaming(
    module: torch.nn.Module, division: Division, engine: CopyEngine, delivery: Delivery, load: ModuleLoad
) -> StreamedUnits | None:
    """Put what is streamed behind its gates, over slots, and start the rotation; None where all stays.

    Args:
        module: What is filled.
        division: What of it is streamed.
        engine: Who copies.
        delivery: From where to where.
        load: Of what stays.

    Raises:
        torch.OutOfMemoryError, MemoryError: There is no memory for the slots.
        ChangedError, FileNotFoundError, PermissionError, DeviceError: As `CopyEngine.submit`.
    """
    if not division.streamed:
        return None
    device = delivery.device
    origin = Origin(engine, delivery.checkpoint, device, known_sums(delivery.checkpoint, engine))
    slot_plan = division.slots
    base, owner = allocate(slot_plan.slots * slot_plan.slot_bytes, device)
    layouts = [
        Layout(base + slot * slot_plan.slot_bytes, tuple([info for _, info in unit.taken]))
        for unit, slot in zip(division.streamed, slot_plan.slot_of, strict=True)
    ]
    rotation = _rotate(origin, layouts, slot_plan, base, owner)
    try:
        tensors = [
            _tensors(unit, layout, device, owner) for unit, layout in zip(division.streamed, layouts, strict=True)
        ]
        host_memory = engine.options.host_memory
        copies = HostCopies(rotation, origin, layouts, host_memory) if host_memory else None
        streamed = StreamedUnits(rotation, (module, division), origin, copies, settle=lambda: load.wait(None))
    except BaseException:
        rotation.close()
        raise
    streamed.occupy(module, tensors)
    if copies is not None:
        copies.start()
    return streamed


def _rotate(origin: Origin, layouts: Sequence[Layout], slots: SlotPlan, base: int, owner: object) -> Rotation:
    used = sorted({info.shard for layout in layouts for info in layout.infos})
    planned = [_plan(origin, layout, used) for layout in layouts]
    return origin.engine.rotate(
        [plan for plan, _ in planned],
        [origin.checkpoint.shards[shard].source for shard in used],
        slot_of=slots.slot_of,
        slots=[(base + slot * slots.slot_bytes, slots.slot_bytes) for slot in range(slots.slots)],
        order=range(len(layouts)),
        after_stream=current_stream(origin.device),
        keep_alive=[owner],
        key_names=[names for _, names in planned],
        debug=origin.engine.options.debug,
    )


def _plan(origin: Origin, layout: Layout, used: Sequence[int]) -> tuple[LoadPlan, tuple[str, ...]]:
    """Return the plan that fills a unit's slot, and what the keys of its sums are called."""
    number = {shard: index for index, shard in enumerate(used)}
    copies = [copy._replace(shard=number[copy.shard]) for copy in layout.copies(layout.address)]
    apart = APART_BYTES if origin.device.type == "cpu" else None
    plan = make_plan([copies], chunk_bytes=origin.engine.options.chunk_bytes, apart_bytes=apart)
    if origin.known is None:
        return plan, ()
    checked = expected_sums(plan, layout.infos, used, origin.known)
    return replace(plan, sums=checked.sums, expected=checked.expected), checked.names


def _tensors(unit: Unit, layout: Layout, device: torch.device, owner: object) -> list[torch.Tensor]:
    """Return what is to sit in a unit's seats, over its slot."""
    made = []
    address = layout.address
    for seat, info in unit.taken:
        old, dtype = seat.tensor, torch_dtype(info)
        over = tensor_over(address, info.nbytes, dtype, torch_shape(info), device, owner)
        address += padded(info.nbytes)
        if sleeps(old):
            give_memory([old], [over])
            made.append(old)
            continue
        open_gate(old)  # of a load that failed
        differentiable = dtype.is_floating_point or dtype.is_complex
        new = torch.Tensor._make_subclass(plain_kind(old), over, old.requires_grad and differentiable)
        new.__dict__.update(own_attributes(old))
        made.append(new)
    return made
