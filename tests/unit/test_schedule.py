"""What the simulation does with each thing that can hold bytes or work up, in the smallest case."""

from __future__ import annotations

import pytest

from streamload._plan import Copy, SlotPlan, make_plan, plan_slots
from streamload._schedule import Pipeline, reads_by_group, simulate_cold_start, simulate_passes

LINK = 100.0  # bytes per second


def pipeline(**changes: object):
    return Pipeline(**{"link_bytes_per_second": LINK, "staging_bytes": 10_000, "chunk_bytes": 100, **changes})


def blocks(count, stay, slots=3, nbytes=256):
    """The plan of `count` equal units of which `stay` stay."""
    return plan_slots([nbytes] * count, range(count), budget=(stay + slots) * nbytes, most_slots=slots)


def test_the_reads_of_a_plan_are_taken_as_they_are():
    plan = make_plan([[Copy(0, 0, 250, 1000)], [], [Copy(0, 250, 300, 2000), Copy(0, 300, 310, 4000)]], chunk_bytes=100)
    assert [sum(reads) for reads in reads_by_group(plan)] == [250, 0, 60]
    assert sum(map(len, reads_by_group(plan))) == plan.read_count


def test_a_layer_waits_for_its_own_bytes_and_for_the_layer_before():
    start = simulate_cold_start([[100], [100], [100]], [0.5, 3.0, 0.25], pipeline())
    assert start.ready_seconds == (1.0, 2.0, 3.0)
    assert start.start_seconds == (1.0, 2.0, 5.0)
    assert start.stalls == (1.0, 0.5, 0.0)
    assert start.first_token_seconds == 5.25
    assert (start.transfer_seconds, start.compute_seconds) == (3.0, 3.75)


def test_a_layer_without_bytes_waits_for_none():
    assert simulate_cold_start([[], [100]], [0.5, 0.5], pipeline()).start_seconds == (0.0, 1.0)


def test_reading_and_copying_overlap_by_chunks():
    slow = simulate_cold_start([[100] * 10], [0.0], pipeline(storage_bytes_per_second=50.0))
    assert slow.first_token_seconds == 10 * 2.0 + 1.0
    fast = simulate_cold_start([[100] * 10], [0.0], pipeline(storage_bytes_per_second=200.0))
    assert fast.first_token_seconds == 0.5 + 10 * 1.0
    together = simulate_cold_start([[100] * 10], [0.0], pipeline(storage_bytes_per_second=100.0, staging_bytes=100))
    assert together.first_token_seconds == 20.0  # one buffer: nothing overlaps


def test_latencies_come_once_a_load_and_once_a_group():
    start = simulate_cold_start([[100], [100]], [0.0, 0.0], pipeline(load_seconds=0.5, group_seconds=0.25))
    assert start.ready_seconds == (1.75, 2.75)
    assert start.transfer_seconds == 2.5


def test_in_a_first_pass_through_slots_copies_wait_for_the_slot():
    plan = SlotPlan((), (0, 1, 2), (0, 0, 0), 1, 256, 256)
    start = simulate_cold_start([[100]] * 3, [2.0] * 3, pipeline(), slots=plan)
    assert start.start_seconds == (1.0, 4.0, 7.0)
    assert simulate_cold_start([[100]] * 3, [2.0] * 3, pipeline()).start_seconds == (1.0, 3.0, 5.0)


def test_with_one_slot_nothing_overlaps():
    steady = simulate_passes([[100]] * 4, [2.0] * 4, range(4), blocks(4, 0, slots=1), pipeline())
    assert steady.seconds == pytest.approx(4 * (1.0 + 2.0))
    assert steady.stall_seconds == pytest.approx(4.0)


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, 8.0), (1.0, 8.0), (3.0, 24.0)])
def test_with_two_slots_and_an_even_count_the_longer_of_link_and_computing_counts(seconds, expected):
    steady = simulate_passes([[100]] * 8, [seconds] * 8, range(8), blocks(8, 0, slots=2), pipeline())
    assert steady.seconds == pytest.approx(expected)
    assert steady.link_fraction == pytest.approx(800 / expected / LINK)


def test_prefetch_goes_on_into_the_next_pass():
    plan = blocks(9, 0)
    steady = simulate_passes([[100]] * 9, [0.9] * 9, range(9), plan, pipeline())
    assert steady.seconds == pytest.approx(9.0)
    assert steady.link_fraction == pytest.approx(1.0)


def test_what_stays_is_never_streamed():
    plan = blocks(12, 4)
    steady = simulate_passes([[100]] * 12, [0.1] * 12, range(12), plan, pipeline())
    assert (steady.bytes_streamed, steady.fills) == (800.0, 8.0)
    assert steady.seconds == pytest.approx(8.0)
    assert steady.compute_seconds == pytest.approx(1.2)
    nothing = simulate_passes([[100]] * 3, [0.5] * 3, range(3), blocks(3, 3), pipeline())
    assert (nothing.seconds, nothing.bytes_streamed, nothing.link_fraction) == (1.5, 0.0, 0.0)


def test_a_unit_used_twice_is_filled_again_only_where_its_slot_was_taken():
    plan = SlotPlan((), (0, 1, 2), (0, 1, 0), 2, 256, 512)
    next_to_itself = simulate_passes([[100]] * 3, [0.1] * 3, [0, 0, 1, 2], plan, pipeline())
    apart = simulate_passes([[100]] * 3, [0.1] * 3, [0, 2, 0, 1, 2], plan, pipeline())
    assert (next_to_itself.fills, apart.fills) == (2.0, 4.0)  # unit 1 is alone in its slot and is filled once


def test_units_on_the_host_are_not_read():
    slow = pipeline(storage_bytes_per_second=10.0)
    plan = blocks(6, 0)
    read = simulate_passes([[100]] * 6, [0.1] * 6, range(6), plan, slow)
    half = simulate_passes([[100]] * 6, [0.1] * 6, range(6), plan, slow, on_host={0, 2, 4})
    none = simulate_passes([[100]] * 6, [0.1] * 6, range(6), plan, slow, on_host=range(6))
    assert read.seconds == pytest.approx(60.0)
    assert half.seconds == pytest.approx(30.0)
    assert none.seconds == pytest.approx(6.0)


def test_reads_that_wait_for_the_slot_put_off_its_copies():
    two, pipe = blocks(4, 0, slots=2), pipeline(storage_bytes_per_second=100.0)
    ahead = simulate_passes([[100]] * 4, [1.0] * 4, range(4), two, pipe)
    waits = simulate_passes([[100]] * 4, [1.0] * 4, range(4), two, pipe, read_ahead=False)
    assert (ahead.seconds, waits.seconds) == (4.0, 6.0)  # read, copied and computed in turn, two at a time


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"link_bytes_per_second": 0.0}, "rates must be above 0"),
        ({"storage_bytes_per_second": float("nan")}, "rates must be above 0"),
        ({"staging_bytes": 50}, "chunk_bytes <= staging_bytes"),
        ({"group_seconds": -1.0}, "latencies"),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        pipeline(**changes)


def test_computing_times_must_match():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        simulate_cold_start([[1]], [], pipeline())
    with pytest.raises(ValueError, match="at least two passes"):
        simulate_passes([[1]], [1.0], [0], blocks(1, 1), pipeline(), passes=1)
    with pytest.raises(ValueError, match="for each of 1 units"):
        simulate_passes([[1]], [], [0], blocks(1, 1), pipeline())


def test_eighty_layers_and_a_hundred_passes_are_a_few_calls_each(count_calls):
    plan = blocks(80, 20)
    calls = count_calls(lambda: simulate_passes([[100] * 400] * 80, [0.1] * 80, range(80), plan, pipeline()))
    assert calls < 10 * 80 * 100
