"""Cut a module into units: the weights that one of its modules needs together, and that module.

Floor 4, part of `torch`; pure. A unit may be streamed, because its module's forward says when its weights are in use.
What no forward speaks for is fixed: it stays resident whatever the budget. Units are disjoint and not nested. Read
next: `_oversized`, which decides what stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _NormBase

from .._checkpoint import group_layers
from ._groups import SMALL_BYTES, layers_in_order
from ._memory import ALIGNMENT
from ._seats import walk
from ._sleep import lacks_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo
    from ._seats import Seat

SMALLEST_PART = 64
"""A unit below this part of the largest one is not worth a turn: it would hold a slot cut for the largest one, and stop
the link between two copies, for less than 2 % of what that slot could hold. Final norms above all."""

Taken = tuple["Seat", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class Unit:
    """The weights that one module needs together.

    Attributes:
        path: The module's name in the whole, empty for the whole itself.
        module: Whose forward uses them, all of them inside it.
        taken: Seat and tensor of the checkpoint, in the module's order.
    """

    path: str
    module: torch.nn.Module
    taken: list[Taken] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes that its tensors take on the device, one after the other, each padded to `ALIGNMENT`."""
        return sum([padded(info.nbytes) for _, info in self.taken])


@dataclass(frozen=True, slots=True)
class Cut:
    """A module cut into units.

    Attributes:
        units: In the order in which their first tensor stands in the module.
        fixed: What belongs to none.
    """

    units: list[Unit]
    fixed: list[Taken]


def padded(nbytes: int) -> int:
    """Return the bytes that a tensor takes beside others in device memory."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def cut_into_units(module: torch.nn.Module, taken: Sequence[Taken], checkpoint: Checkpoint) -> Cut:
    """Cut what a checkpoint fills of a module into units.

    A unit is the module at the path of one of the checkpoint's layers; where there is none that runs, each module that
    owns tensors of the layer. A layer that holds more than half of all bytes is cut again below its path. Fixed are:

    - tensors that are real already, or at places in several units (tied weights, modules that two blocks share);
    - tensors of a module that contains a unit of another, or that has no forward of its own;
    - buffers of norms that count batches, and buffers below 1 MiB: modules write to such ones while they run;
    - units below a part `1 / SMALLEST_PART` of the largest.

    Args:
        module: What is filled.
        taken: Its seats and the tensors that go there.
        checkpoint: For its layers.
    """
    modules = {prefix.rstrip("."): owner for prefix, owner in walk(module)}
    found: dict[int, Unit] = {}
    for path, members in _layers(modules, taken, checkpoint):
        for pair in members:
            where = path if _runs(modules.get(path)) else pair[1].name.rpartition(".")[0]
            if (owner := modules.get(where)) is not None and _runs(owner) and not _stays(pair):
                found.setdefault(id(owner), Unit(where, owner)).taken.append(pair)
    units = _without_nests(_without_ties(list(found.values())))
    largest = max([unit.nbytes for unit in units], default=0)
    units = [unit for unit in units if unit.nbytes * SMALLEST_PART >= largest]
    streamable = {id(seat) for unit in units for seat, _ in unit.taken}
    return Cut(units, [pair for pair in taken if id(pair[0]) not in streamable])


def _layers(
    modules: Mapping[str, torch.nn.Module], taken: Sequence[Taken], checkpoint: Checkpoint
) -> Iterator[tuple[str, list[Taken]]]:
    """Yield path and tensors of each layer, in the module's order; a layer of more than half of all is cut again."""
    half = sum([info.nbytes for _, info in taken]) / 2
    waiting = layers_in_order(taken, checkpoint, lambda pair: pair[1].name)[::-1]
    while waiting:
        path, members = waiting.pop()
        below = _cut_below(path, members) if sum([info.nbytes for _, info in members]) > half else []
        if len(members) > 1 and path in modules and all(name in modules for name, _ in below) and below:
            waiting += below[::-1]
        else:
            yield path, members


def _cut_below(path: str, members: Iterable[Taken]) -> list[tuple[str, list[Taken]]]:
    """Group what lies under a path by the layers that its names make from there on; nothing if all of it is one."""
    under = {info.name.removeprefix(f"{path}."): (seat, info) for seat, info in members}
    layers = group_layers([replace(info, name=name) for name, (_, info) in under.items()])
    named = {tensor.name: f"{path}.{layer.name}" for layer in layers for tensor in layer.tensors}
    gathered: dict[str, list[Taken]] = {}
    for name, pair in under.items():
        gathered.setdefault(named[name], []).append(pair)
    return list(gathered.items())


def _runs(module: torch.nn.Module | None) -> bool:
    """Whether a module has a forward of its own; a ModuleList or a ParameterList has none."""
    return module is not None and type(module).forward is not torch.nn.Module.forward


def _stays(pair: Taken) -> bool:
    """Whether a tensor has to stay where it is, whatever module it belongs to."""
    seat, info = pair
    if not (seat.tensor.is_meta or lacks_memory(seat.tensor)):
        return True
    owner, attribute = seat.places[0]
    return attribute in owner._buffers and (isinstance(owner, _NormBase) or info.nbytes < SMALL_BYTES)


def _without_ties(units: list[Unit]) -> list[Unit]:
    """Leave out tensors that somebody outside their unit's module can see: each place must be in no other unit."""
    inside: dict[int, set[int]] = {}  # by module: the units that contain it
    for number, unit in enumerate(units):
        for module in unit.module.modules():
            inside.setdefault(id(module), set()).add(number)
    nothing: set[int] = set()
    kept = []
    for number, unit in enumerate(units):
        own = [
            (seat, info)
            for seat, info in unit.taken
            if all(_ends_at(inside.get(id(owner), nothing), number, units) for owner, _ in seat.places)
        ]
        kept.append(replace(unit, taken=own))
    return [unit for unit in kept if unit.taken]


def _ends_at(containing: set[int], number: int, units: Sequence[Unit]) -> bool:
    """Whether a module lies in a unit and in no other, but for those around that unit."""
    module = units[number].module
    return number in containing and all(
        other == number or any(inner is module for inner in units[other].module.modules()) for other in containing
    )


def _without_nests(units: list[Unit]) -> list[Unit]:
    """Leave out units whose module contains another's: what is their own is in use while the inner one runs."""
    modules = {id(unit.module) for unit in units}
    return [
        unit
        for unit in units
        if not any(id(inner) in modules for inner in unit.module.modules() if inner is not unit.module)
    ]
