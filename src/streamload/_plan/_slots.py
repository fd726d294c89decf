"""Choose which units stay on the device and which pass through slots, and which slot each of those has.

Part of `_plan`; pure. A unit is what one module of a pass needs together, usually a layer. A slot is a range of device
memory that several units take turns in. The engine's rotation runs the result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SLOT_ALIGNMENT = 256
"""What the size of a slot is a multiple of, so that slots may follow each other."""

_WORTH = 0.9  # of the bytes of a pass; a slot less must save as much before smoothness is given up for it
_MOST_SUMS = 1024  # sums of residents that are looked at; bounds the work for units that all differ


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """Hold what stays on the device and what passes through slots.

    Attributes:
        resident: Units that stay, ascending.
        streamed: Units that pass through slots, in the order of the pass; each once.
        slot_of: Slot of each of `streamed`.
        slots: How many; 0 where everything stays. With a single one nothing overlaps but the computing of units that
            stay: the next unit is copied only when the one before is done with.
        slot_bytes: Of each slot; a multiple of `SLOT_ALIGNMENT`.
        device_bytes: What stays and the slots.
    """

    resident: tuple[int, ...]
    streamed: tuple[int, ...]
    slot_of: tuple[int, ...]
    slots: int
    slot_bytes: int
    device_bytes: int


def plan_slots(
    nbytes: Sequence[int], order: Sequence[int], *, budget: int, fixed: int = 0, most_slots: int = 3
) -> SlotPlan:
    """Plan the device memory of units of which not all fit, so that a pass streams few bytes.

    All slots are as large as the largest unit that passes through them; every size that could be the largest is tried,
    so that an embedding or a head becomes resident where that pays. `most_slots` are taken where they fit. Fewer are
    taken where units are met again in their slot no sooner with them, by the least reuse distance, and a tenth of the
    bytes is saved (6 units in 2 slots rather than 7 in 3), and where a unit would be alone in its slot, which might as
    well stay (4 in 2 rather than 5 in 3; 2 in 1 rather than 4 in 3). Else one slot is the last resort: then nothing
    overlaps. Smaller units stay first where that costs a unit and a tenth of the bytes at most: each takes a whole slot
    for a turn that hides little, and an embedding, which computes nothing, hides nothing. Of units of one size, those
    that stay are spread evenly among those that do not, also from one pass to the next.

    Args:
        nbytes: Bytes of each unit on the device, padding included.
        order: Units in the order of a pass. One that stands several times is streamed as often; one that is missing is
            streamed only when asked for, and comes last in `streamed`.
        budget: Device memory for everything, in bytes.
        fixed: Bytes that stay whatever happens.
        most_slots: Most slots to use.

    Raises:
        ValueError: The budget is too small for `fixed` and one slot of the largest unit; the text has what is needed.
            Or a number is out of range.
    """
    _check(nbytes, order, fixed, most_slots)
    uses = Counter(order)
    everything = fixed + sum(nbytes)
    if everything <= budget:
        return SlotPlan(tuple(range(len(nbytes))), (), (), 0, 0, everything)
    needed = least_device_bytes(nbytes, slots=1, fixed=fixed)
    if needed > budget:
        largest = max(range(len(nbytes)), key=nbytes.__getitem__, default=0)
        raise ValueError(
            f"a device memory of {budget} bytes was asked for; at least {needed} are needed: {fixed} that stay "
            f"whatever happens, and one slot of {needed - fixed} for unit {largest}, the largest"
        )
    best: SlotPlan | None = None
    least = 0
    for slots in range(most_slots, 0, -1):
        if best is not None and slots == 1:
            break  # nothing would overlap
        plan = _plan_with(nbytes, order, uses, budget - fixed, slots)
        while plan is not None and _alone(plan):
            plan = _plan_with(nbytes, order, uses, budget - fixed, plan.slots - _alone(plan))
        if plan is None:
            continue
        cost = sum([nbytes[unit] * uses[unit] for unit in plan.streamed])
        if best is None or (
            least_reuse_distance(plan.slot_of) >= least_reuse_distance(best.slot_of) and cost <= _WORTH * least
        ):
            best, least = plan, cost
    assert best is not None  # one slot of the largest unit fits, as was checked
    return replace(best, device_bytes=fixed + best.device_bytes)


def least_device_bytes(nbytes: Sequence[int], *, slots: int, fixed: int = 0) -> int:
    """Return the least device memory, in bytes, that units take with that many slots, or all resident if it is less.

    Args:
        nbytes: Bytes of each unit on the device, padding included.
        slots: How many; with one, nothing overlaps.
        fixed: Bytes that stay whatever happens.
    """
    choices = [sum(nbytes)]
    choices += [slots * _padded(size) + sum([other for other in nbytes if other > size]) for size in set(nbytes)]
    return fixed + min(choices)


def assign_slots(count: int, slots: int) -> list[int]:
    """Return the slot of each of `count` units that are met in turn, again and again.

    The fewest steps from a unit to the next one in its slot, also where the sequence begins again, are as many as they
    can be, and every slot is used that can be. The bound: with m = ceil(count / slots) some slot has m units, whose
    distances add up to `count`, so that one of them is floor(count / m) at most; which is `slots` - 1 or more
    wherever m * (`slots` - 1) <= `count`.

    Raises:
        ValueError: `count` is below 0, or `slots` below 1.
    """
    if count < 0 or slots < 1:
        raise ValueError(f"expected a count from 0 on and at least one slot, got {count} units and {slots} slots")
    rounds = -(-count // slots)
    missing = rounds * slots - count
    if missing < rounds:
        return _rotate(slots, rounds - missing, missing)
    return _cut_evenly(count, slots, rounds)


def _rotate(slots: int, rounds: int, short_rounds: int) -> list[int]:
    """Return whole rounds through the slots, and between them rounds that leave out one slot each.

    Every unit takes the slot that has waited longest or, in a short round, the second longest, so that distances are
    `slots` - 1 at least. Short rounds are spread, and each leaves out another slot.
    """
    steps = rounds * slots
    short = {}
    for number in range(short_rounds):
        step = number * steps // short_rounds
        short[(step + (number - step) % slots) % steps] = number
    slot_of: list[int] = []
    for step in range(steps):
        if step in short:
            slot_of += [(short[step] + other) % slots for other in range(1, slots)]
        slot_of.append(step % slots)
    return slot_of


def _cut_evenly(count: int, slots: int, rounds: int) -> list[int]:
    """Return rounds whose lengths differ by one at most, each through slots from 0 on.

    Distances are the length of a round at least, floor(count / rounds). Slots left over take every other unit from
    the slot that has most, which only adds to distances.
    """
    held: list[list[int]] = [[] for _ in range(min(slots, count))]
    for number in range(rounds):
        start, end = number * count // rounds, (number + 1) * count // rounds
        for slot, unit in enumerate(range(start, end)):
            held[slot].append(unit)
    for slot in range(1, len(held)):
        if not held[slot]:  # the ones behind are empty too
            fullest = max(range(slot), key=lambda other: len(held[other]))
            held[slot], held[fullest] = held[fullest][1::2], held[fullest][::2]
    slot_of = [0] * count
    for slot, units in enumerate(held):
        for unit in units:
            slot_of[unit] = slot
    return slot_of


def least_reuse_distance(slot_of: Sequence[int]) -> int:
    """Return the fewest steps from a unit to the next in its slot, over a sequence that begins again at its end."""
    last = {slot: at - len(slot_of) for at, slot in enumerate(slot_of)}
    least = len(slot_of)
    for at, slot in enumerate(slot_of):
        least = min(least, at - last[slot])
        last[slot] = at
    return least


def _check(nbytes: Sequence[int], order: Iterable[int], fixed: int, most_slots: int) -> None:
    if most_slots < 1:
        raise ValueError(f"expected at least one slot, got most_slots={most_slots}")
    if fixed < 0 or min(nbytes, default=0) < 0:
        raise ValueError(f"expected sizes from 0 on, got {min([fixed, *nbytes])} bytes")
    for unit in order:
        if not 0 <= unit < len(nbytes):
            raise ValueError(f"the order names unit {unit}; there are {len(nbytes)}")


def _alone(plan: SlotPlan) -> int:
    """Return how many units share their slot with no other."""
    return sum([held == 1 for held in Counter(plan.slot_of).values()])


def _plan_with(
    nbytes: Sequence[int], order: Sequence[int], uses: Counter[int], budget: int, slots: int
) -> SlotPlan | None:
    """Return the plan with that many slots that streams fewest bytes, None where none fits."""
    total = sum([nbytes[unit] * count for unit, count in uses.items()])
    best: tuple[int, int, int] | None = None  # bytes streamed, largest unit that is, memory beside slots and it
    for largest in sorted(set(nbytes) - {0}, reverse=True):
        room = budget - slots * _padded(largest) - sum([size for size in nbytes if size > largest])
        if room < 0:
            continue
        saved = sum([nbytes[unit] * uses[unit] for unit in range(len(nbytes)) if nbytes[unit] > largest])
        saved += sum([size * used * count for size, used, count in _greedy(_kinds(nbytes, uses, largest), room)])
        if best is None or total - saved < best[0]:
            best = total - saved, largest, room
    if best is None:
        return None
    _, largest, room = best
    kinds = _kinds(nbytes, uses, largest)
    stays = {unit for unit, size in enumerate(nbytes) if size > largest or not size}
    counts = _small_first(kinds, room, _fill_room(kinds, room))
    for (size, used, _), count in zip(kinds, counts, strict=True):
        alike = [unit for unit in _in_order(order, nbytes) if nbytes[unit] == size and uses[unit] == used]
        stays.update(_spread(alike, count))
    streamed = tuple([unit for unit in _in_order(order, nbytes) if unit not in stays])
    slot_bytes = _padded(max([nbytes[unit] for unit in streamed]))
    return SlotPlan(
        tuple(sorted(stays)),
        streamed,
        tuple(assign_slots(len(streamed), slots)),
        slots,
        slot_bytes,
        sum([nbytes[unit] for unit in stays]) + slots * slot_bytes,
    )


_Kind = tuple[int, int, int]  # bytes of a unit, times it is used in a pass, how many units


def _kinds(nbytes: Sequence[int], uses: Counter[int], largest: int) -> list[_Kind]:
    """Return the units up to a size by kind, those that save most by the byte first, then the largest."""
    counts = Counter([(uses[unit], size) for unit, size in enumerate(nbytes) if 0 < size <= largest])
    return [(size, used, count) for (used, size), count in sorted(counts.items(), reverse=True)]


def _greedy(kinds: Iterable[_Kind], room: int) -> list[_Kind]:
    taken: list[_Kind] = []
    for size, used, count in kinds:
        fits = min(count, room // size)
        room -= fits * size
        taken.append((size, used, fits))
    return taken


def _fill_room(kinds: Sequence[_Kind], room: int) -> tuple[int, ...]:
    """Return how many of each kind stay: what saves most, or at least as much as the greedy choice."""
    sums: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # bytes taken → bytes saved, counts
    for size, used, count in kinds:
        further: dict[int, tuple[int, tuple[int, ...]]] = {}
        for taken, (saved, counts) in sums.items():
            for fits in range(min(count, (room - taken) // size) + 1):
                candidate = saved + fits * size * used, (*counts, fits)
                at = taken + fits * size
                if at not in further or candidate[0] > further[at][0]:
                    further[at] = candidate
        kept = sorted(further, key=lambda at: (further[at][0], -at), reverse=True)[:_MOST_SUMS]
        sums = {at: further[at] for at in kept}
    greedy = _greedy(kinds, room)
    plain = sum([size * used * count for size, used, count in greedy]), tuple([count for _, _, count in greedy])
    return max([plain, *sums.values()], key=lambda choice: choice[0])[1]


def _small_first(kinds: Sequence[_Kind], room: int, fewest: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many of each kind stay: all but the largest units where that fits and costs little, else `fewest`.

    Little is a unit and a tenth of the bytes at most.
    """
    largest = max([size for size, _, _ in kinds], default=0)
    left = room - sum([size * count for size, _, count in kinds if size < largest])
    counts = []
    for size, _, count in kinds:
        stays = count if size < largest else min(count, max(left, 0) // largest)
        left -= stays * size if size == largest else 0
        counts.append(stays)

    def streamed(chosen: Sequence[int]) -> int:
        return sum([size * used * (count - some) for (size, used, count), some in zip(kinds, chosen, strict=True)])

    cost, least = streamed(counts), streamed(fewest)
    return tuple(counts) if left >= 0 and 0 < cost <= min(least + largest, least / _WORTH) else fewest


def _in_order(order: Sequence[int], nbytes: Sequence[int]) -> list[int]:
    """Return every unit once: as first met in the pass, then those that are not met."""
    return list(dict.fromkeys([*order, *range(len(nbytes))]))


def _spread(units: Sequence[int], count: int) -> list[int]:
    """Return `count` of the units, at distances that differ by one at most, also around the end."""
    return [unit for at, unit in enumerate(units) if (at + 1) * count // len(units) > at * count // len(units)]


def _padded(nbytes: int) -> int:
    return -(-nbytes // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
