"""Who stays on the device and who passes through slots, each rule with its smallest example."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamload._plan import SLOT_ALIGNMENT, assign_slots, least_reuse_distance, plan_slots

GB = 10**9
BLOCK, EDGE = 1_711_276_032, 2_101_346_304  # a decoder block of a 70B model, its embedding and its head


def plan_blocks(count, *, budget, most_slots=3):
    return plan_slots([SLOT_ALIGNMENT] * count, range(count), budget=budget, most_slots=most_slots)


def test_all_stays_where_all_fits():
    plan = plan_slots([10, 20, 30], [0, 1, 2], budget=65, fixed=5)
    assert (plan.resident, plan.streamed, plan.slot_of) == ((0, 1, 2), (), ())
    assert (plan.slots, plan.slot_bytes, plan.device_bytes) == (0, 0, 65)


def test_what_stays_is_spread_evenly_also_around_the_end():
    plan = plan_blocks(12, budget=7 * SLOT_ALIGNMENT)
    assert plan.slots == 3
    assert plan.resident == (2, 5, 8, 11)
    assert plan.streamed == (0, 1, 3, 4, 6, 7, 9, 10)
    assert plan.device_bytes == 7 * SLOT_ALIGNMENT


def test_embedding_and_head_stay_and_slots_are_as_small_as_a_block():
    sizes = [EDGE, *[BLOCK] * 80, EDGE]
    plan = plan_slots(sizes, range(82), budget=65 * GB)
    assert {0, 81} <= set(plan.resident)
    assert plan.slots == 3
    assert plan.slot_bytes == BLOCK
    assert len(plan.resident) == 2 + (65 * GB - 2 * EDGE - 3 * BLOCK) // BLOCK
    assert plan.device_bytes <= 65 * GB


def test_a_large_unit_is_streamed_where_it_does_not_fit_beside_the_slots():
    plan = plan_slots([10 * SLOT_ALIGNMENT, *[9 * SLOT_ALIGNMENT] * 9], range(10), budget=36 * SLOT_ALIGNMENT)
    assert (plan.resident, plan.slots, plan.slot_bytes) == ((), 3, 10 * SLOT_ALIGNMENT)


def test_the_gap_that_is_left_is_filled_with_small_units():
    sizes = [SLOT_ALIGNMENT * size for size in (1, *[10] * 7, 2, 3)]
    plan = plan_slots(sizes, range(10), budget=35 * SLOT_ALIGNMENT)
    assert (plan.resident, plan.slots) == ((8, 9), 3)  # 5 are left: 3 and 2 fill them, 3 and 1 would not


def test_small_ends_stay_where_that_costs_little_since_nothing_is_hidden_behind_them():
    ends, room = 8 * SLOT_ALIGNMENT, 41 * 10 * SLOT_ALIGNMENT
    plan = plan_slots([ends, *[10 * SLOT_ALIGNMENT] * 80, ends], range(82), budget=room)
    assert {0, 81} <= set(plan.resident)
    assert len(plan.resident) == 2 + 36  # 38 without the ends: 436 units of bytes to stream then, 440 now
    gaps = [later - earlier for earlier, later in pairwise(plan.streamed)]
    assert max(gaps) == 2
    ends = 6 * SLOT_ALIGNMENT
    few = plan_slots([ends, *[10 * SLOT_ALIGNMENT] * 6, ends], range(8), budget=60 * SLOT_ALIGNMENT)
    assert not {0, 7} <= set(few.resident)  # 42 units of bytes without them; 50 with them would be a fifth more


def test_two_slots_are_taken_where_three_do_not_fit():
    assert plan_blocks(9, budget=2 * SLOT_ALIGNMENT).slots == 2


def test_two_slots_are_taken_for_six_where_three_would_meet_seven_as_soon():
    plan = plan_blocks(10, budget=6 * SLOT_ALIGNMENT)
    assert (plan.slots, len(plan.streamed)) == (2, 6)
    assert least_reuse_distance(plan.slot_of) == 2
    assert plan_blocks(11, budget=6 * SLOT_ALIGNMENT).slots == 3  # 8 in 3 are met later than 7 in 2
    assert plan_blocks(40, budget=6 * SLOT_ALIGNMENT).slots == 3  # 36 in 2 would save next to nothing


@pytest.mark.parametrize(("count", "slots", "streamed"), [(7, 2, 4), (6, 1, 2)])
def test_no_unit_is_alone_in_its_slot(count, slots, streamed):
    plan = plan_blocks(count, budget=5 * SLOT_ALIGNMENT)
    assert (plan.slots, len(plan.streamed)) == (slots, streamed)
    assert plan.device_bytes == 5 * SLOT_ALIGNMENT


def test_one_slot_is_the_last_resort():
    plan = plan_blocks(4, budget=2 * SLOT_ALIGNMENT - 1)
    assert (plan.slots, plan.slot_of, plan.streamed) == (1, (0,) * 4, (0, 1, 2, 3))


def test_no_more_slots_than_asked_for():
    assert plan_blocks(9, budget=5 * SLOT_ALIGNMENT, most_slots=1).slots == 1
    assert plan_blocks(30, budget=12 * SLOT_ALIGNMENT, most_slots=5).slots == 5


def test_a_unit_used_twice_in_a_pass_stays_before_one_used_once():
    plan = plan_slots([SLOT_ALIGNMENT] * 9, [0, 1, 2, 5, 3, 4, 5, 6, 7, 8], budget=4 * SLOT_ALIGNMENT)
    assert plan.resident == (5,)


def test_streamed_units_stand_in_the_order_of_the_pass_and_unused_ones_last():
    plan = plan_slots([SLOT_ALIGNMENT] * 5, [3, 1, 4, 3], budget=SLOT_ALIGNMENT)
    assert plan.streamed == (3, 1, 4, 0, 2)


def test_slots_follow_each_other_aligned_and_fixed_bytes_are_counted():
    plan = plan_slots([1000] * 9, range(9), budget=10_000, fixed=5000)
    assert plan.slot_bytes == 1024
    assert plan.device_bytes == 5000 + 3 * 1024 + 1000 * len(plan.resident) <= 10_000


def test_a_budget_too_small_says_what_was_asked_what_is_needed_and_for_which_unit():
    with pytest.raises(ValueError, match=r"memory of 1500 bytes was asked for; at least 1536 are needed") as error:
        plan_slots([100, 1000, 300], [0, 1, 2], budget=1500, fixed=512)
    assert "512 that stay whatever happens, and one slot of 1024 for unit 1, the largest" in str(error.value)
    assert plan_slots([100, 1000, 300], [0, 1, 2], budget=1536, fixed=512).slots == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"nbytes": [1], "order": [1]}, "the order names unit 1; there are 1"),
        ({"nbytes": [1], "order": [-1]}, "the order names unit -1"),
        ({"nbytes": [-1], "order": [0]}, "got -1 bytes"),
        ({"nbytes": [1], "order": [0], "fixed": -2}, "got -2 bytes"),
        ({"nbytes": [1], "order": [0], "most_slots": 0}, "most_slots=0"),
        ({"nbytes": [], "order": [], "fixed": 9}, "at least 9 are needed"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        plan_slots(**arguments, budget=1)


def test_slots_in_the_usual_numbers():
    assert assign_slots(6, 3) == [0, 1, 2, 0, 1, 2]
    assert assign_slots(4, 2) == [0, 1, 0, 1]
    assert assign_slots(2, 3) == [0, 1]
    assert assign_slots(0, 3) == []
    assert assign_slots(3, 1) == [0, 0, 0]
    for count, slots in ((-1, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least one slot"):
            assign_slots(count, slots)
