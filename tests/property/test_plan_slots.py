"""Slots are met again as late as can be, budgets are kept, and no choice of residents would stream less."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamload._plan import SLOT_ALIGNMENT, assign_slots, least_reuse_distance, plan_slots

MOST = 40


def reuse_distances(slot_of):
    """Steps from each unit to the next one in its slot, counted out over two passes."""
    twice = slot_of * 2
    return [twice.index(slot, at + 1) - at for at, slot in enumerate(slot_of)]


@pytest.mark.parametrize("slots", range(1, MOST + 1))
def test_every_pair_keeps_the_largest_distance_there_can_be_and_uses_every_slot(slots):
    for count in range(1, MOST + 1):
        slot_of = assign_slots(count, slots)
        assert len(slot_of) == count
        assert set(slot_of) == set(range(min(count, slots)))
        bound = count // -(-count // slots)  # of the slot with most units: its distances add up to count
        least = min(reuse_distances(slot_of))
        assert least == bound == least_reuse_distance(slot_of)
        if -(-count // slots) * (slots - 1) <= count:
            assert least >= min(slots - 1, count)


def test_the_bound_is_what_trying_everything_finds():
    for count in range(1, 8):
        for slots in range(1, 5):
            best = max(min(reuse_distances(list(slot_of))) for slot_of in product(range(slots), repeat=count))
            assert least_reuse_distance(assign_slots(count, slots)) == best, (count, slots)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_units_are_dealt_out_evenly(slots):
    for count in range(slots, 200):
        held = Counter(assign_slots(count, slots)).values()
        assert max(held) - min(held) <= 1, count


sizes = st.lists(st.sampled_from([0, 1, 255, 256, 300, 512, 700, 1024]), min_size=1, max_size=9)


@st.composite
def problems(draw):
    nbytes = draw(sizes)
    order = draw(st.permutations(range(len(nbytes))))
    fixed = draw(st.sampled_from([0, 0, 77]))
    budget = draw(st.integers(fixed + max(nbytes) + SLOT_ALIGNMENT, fixed + sum(nbytes) + SLOT_ALIGNMENT))
    return nbytes, order, budget, fixed, draw(st.integers(1, 4))


@given(problems())
def test_a_plan_keeps_the_budget_and_loses_no_unit(problem):
    nbytes, order, budget, fixed, most_slots = problem
    plan = plan_slots(nbytes, order, budget=budget, fixed=fixed, most_slots=most_slots)
    assert sorted([*plan.resident, *plan.streamed]) == list(range(len(nbytes)))
    assert plan.resident == tuple(sorted(plan.resident))
    assert list(plan.streamed) == [unit for unit in order if unit in plan.streamed]
    assert plan.slot_bytes % SLOT_ALIGNMENT == 0
    assert plan.slot_bytes >= max([nbytes[unit] for unit in plan.streamed], default=0)
    held = fixed + sum(nbytes[unit] for unit in plan.resident) + plan.slots * plan.slot_bytes
    assert plan.device_bytes == held <= budget
    assert list(plan.slot_of) == assign_slots(len(plan.streamed), max(plan.slots, 1))
    assert plan.slots <= most_slots
    assert 1 not in Counter(plan.slot_of).values(), "a unit alone in its slot might as well stay"
    assert bool(plan.streamed) == bool(plan.slots) == (fixed + sum(nbytes) > budget)


def padded(nbytes):
    return -(-nbytes // SLOT_ALIGNMENT) * SLOT_ALIGNMENT


def fewest_streamed(nbytes, budget, slots):
    """By trying every set of residents."""
    units = range(len(nbytes))
    best = None
    for count in units:
        for stays in combinations(units, count):
            streamed = [nbytes[unit] for unit in units if unit not in stays]
            if sum(nbytes) - sum(streamed) + slots * padded(max(streamed)) <= budget:
                best = sum(streamed) if best is None else min(best, sum(streamed))
    return best


@given(problems())
def test_no_other_choice_of_residents_streams_less_by_more_than_a_unit(problem):
    nbytes, order, budget, fixed, most_slots = problem
    plan = plan_slots(nbytes, order, budget=budget, fixed=fixed, most_slots=most_slots)
    if plan.streamed:
        streamed = sum(nbytes[unit] for unit in plan.streamed)
        assert streamed <= fewest_streamed(nbytes, budget - fixed, plan.slots) + max(nbytes)


@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 40), st.integers(1, 3))
def test_of_equal_blocks_and_larger_ends_no_other_choice_streams_less(blocks, block, end, spare, most_slots):
    nbytes = [size * SLOT_ALIGNMENT for size in (block + end, *[block] * blocks, block + end)]
    budget = max(nbytes) + spare * SLOT_ALIGNMENT
    plan = plan_slots(nbytes, range(len(nbytes)), budget=budget, most_slots=most_slots)
    if plan.streamed:
        assert sum(nbytes[unit] for unit in plan.streamed) == fewest_streamed(nbytes, budget, plan.slots)


@given(st.integers(2, 60), st.integers(2, 59))
def test_residents_are_spread_evenly(count, room):
    plan = plan_slots([SLOT_ALIGNMENT] * count, range(count), budget=room * SLOT_ALIGNMENT)
    if plan.streamed and plan.resident:
        doubled = [*plan.resident, *[unit + count for unit in plan.resident]]
        gaps = [later - earlier for earlier, later in pairwise(doubled)]
        assert max(gaps) - min(gaps) <= 1
