"""Put a module's tensors over memory, behind closed gates, and start to fill them.

Floor 4, part of `torch`. Decides memory, order and groups. Read `_seats` for what of a checkpoint belongs where, and
`_module_load` for how it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import TYPE_CHECKING

import torch

from ._delivery import Delivery, Group
from ._embedding import is_table
from ._gate import arriving_load, without_gates
from ._groups import cut, group_bytes, layers_in_order
from ._memory import place
from ._module_load import ModuleLoad
from ._sleep import Bed, give_memory, lacks_memory
from ._submit import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, Ticket
    from .._format import TensorInfo
    from ._assembly import Assembly
    from ._seats import Seat

    Taken = tuple[Seat, TensorInfo | Assembly]


@dataclass(frozen=True, slots=True)
class Filling:
    """A module being filled.

    Attributes:
        groups: What is waited for together, as the ticket numbers it.
        ticket: The submitted plan.
        load: Waits for it, on behalf of the tensors.
    """

    groups: list[Group]
    ticket: Ticket
    load: ModuleLoad


def start_filling(delivery: Delivery, engine: CopyEngine, taken: Sequence[Taken], order: Sequence[str]) -> Filling:
    """Give tensors memory, start to fill it, and put them into their seats.

    Args:
        delivery: From where to where.
        engine: Who copies.
        taken: Seat and tensor of the checkpoint, in the module's order.
        order: Layers that come first.

    Raises:
        TypeError, ValueError: Two tensors overlap in memory, or `order` names no layers.
        DeviceError, ChangedError, FileNotFoundError, PermissionError: As `submit`.
        torch.OutOfMemoryError, MemoryError: As `place`.
    """
    checkpoint = delivery.checkpoint
    _check_order(order, checkpoint)
    arranged = _arrange(taken, checkpoint, order)
    with without_gates():  # a failed load's gates stay closed until this one's take their place
        targets, blocks = _find_memory([members for _, members in arranged], delivery.device)
    ticket = delivery.submit(engine, targets, blocks)
    try:
        tensors = [
            [_occupant(found.tensor, target) for (found, _), target in zip(members, filled, strict=True)]
            for (_, members), filled in zip(arranged, targets, strict=True)
        ]
        with without_gates():
            groups = [
                Group(layer, [_bed(pair, tensor, checkpoint) for pair, tensor in zip(members, seated, strict=True)])
                for (layer, members), seated in zip(arranged, tensors, strict=True)
            ]
        load = delivery.watch(ticket, tensors, [group.beds for group in groups])
        # Behind closed gates: nobody sees a byte too early, even if this is cut off.
        for (found, _), tensor in zip(chain(*(members for _, members in arranged)), chain(*tensors), strict=True):
            found.put(tensor)
    except BaseException:
        ticket.close()
        raise
    return Filling(groups, ticket, load)


def refuse_unfinished(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse a module whose load is not over; one whose load failed may be filled again.

    Raises:
        RuntimeError: As said.
    """
    for tensor in tensors:
        load = arriving_load(tensor)
        if isinstance(load, ModuleLoad) and not load.over:
            raise RuntimeError("the module is still being filled by another stream; wait for it, or close it")


def _check_order(order: Sequence[str], checkpoint: Checkpoint) -> None:
    """Refuse what names no layers: it would be ignored."""
    if isinstance(order, str):
        raise TypeError(f"order must be a sequence of layers' names, got the text {order!r:.80}")
    names = {layer.name for layer in checkpoint.layers}
    unknown = [name for name in order if name not in names]
    if unknown:
        near = get_close_matches(str(unknown[0]), names, n=1)
        hint = f"; nearest: {near[0]!r}" if near else ""
        raise ValueError(f"order names {len(unknown)} layers that the checkpoint lacks, {unknown[0]!r} first{hint}")


def _arrange(taken: Sequence[Taken], checkpoint: Checkpoint, order: Sequence[str]) -> list[tuple[str, list[Taken]]]:
    """Cut what is loaded into groups in the order of their use: layer and members of each."""
    layers = layers_in_order(
        taken, checkpoint, lambda pair: pair[1].name, order=order, last=lambda pair: is_table(*pair, checkpoint)
    )
    closes_at = group_bytes(sum([info.nbytes for _, info in taken]))
    return [
        (layer, group) for layer, members in layers for group in cut(members, lambda pair: pair[1].nbytes, closes_at)
    ]


def _bed(pair: Taken, tensor: torch.Tensor, checkpoint: Checkpoint) -> Bed:
    found, info = pair
    return Bed(found, tensor, info, table=is_table(found, info, checkpoint))


def _find_memory(groups: Sequence[Sequence[Taken]], device: torch.device) -> tuple[list[list[Target]], list[object]]:
    """Return each group's targets, over new blocks for what is on meta, and the blocks."""
    new = [info for group in groups for found, info in group if _is_new(found.tensor)]
    placement = place(new, device)
    placed = iter(placement.tensors)
    targets = [
        [Target(info, next(placed) if _is_new(found.tensor) else found.tensor) for found, info in group]
        for group in groups
    ]
    return targets, placement.blocks


def _is_new(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or lacks_memory(tensor)


def _occupant(old: torch.Tensor, target: Target) -> torch.Tensor:
    """Return what is to sit in a seat: the tensor that is there, or one of its class over new memory."""
    if not old.is_meta:
        if lacks_memory(old):
            give_memory([old], [target.tensor])
        else:
            with without_gates():
                torch.autograd.graph.increment_version(old)  # a stream that filled it before may not sleep any more
        return old
    differentiable = target.tensor.dtype.is_floating_point or target.tensor.dtype.is_complex
    new = torch.Tensor._make_subclass(type(old), target.tensor, old.requires_grad and differentiable)
    if old.__dict__:
        new.__dict__.update(old.__dict__)
    return new
