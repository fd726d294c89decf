"""Which pieces of a plan make up a tensor, which tensors are left out, and how checksums join: by example."""

from __future__ import annotations

from array import array

import google_crc32c
import pytest

from streamload._checksums import UNKNOWN, combine, expected_sums, plan_sums
from streamload._format import TensorInfo
from streamload._plan import LoadPlan, make_reading_plan


def reads_of(*reads: tuple[int, int, int, int]) -> LoadPlan:
    """A plan of such reads: source, offset, length, group."""
    flat = array("Q", [number for read in reads for number in (*read, 0)])
    return LoadPlan(1 + max([read[3] for read in reads], default=0), 0, flat, array("Q"))


def test_a_range_read_in_part_is_left_out_and_told():
    plan = reads_of((0, 0, 100, 0), (0, 150, 100, 0))
    sums, left_out = plan_sums(plan, [(0, 0, 100), (0, 100, 200), (0, 200, 250), (1, 0, 10)])
    assert left_out == [1, 3]
    assert list(sums) == [0, 0, 100, 0, 1, 50, 50, 2]


def test_a_range_spread_over_groups_is_left_out():
    halves = [(0, 0, 50, 0), (0, 50, 50, 1)]
    assert plan_sums(reads_of(*halves), [(0, 0, 100)]) == (array("Q"), [0])
    assert plan_sums(reads_of(*halves, (0, 0, 100, 2)), [(0, 0, 100)]) == (array("Q"), [0])


@pytest.mark.parametrize("group", [0, 1])
def test_a_range_read_twice_is_left_out_since_the_second_time_may_differ(group):
    plan = reads_of((0, 0, 60, 0), (0, 60, 40, 0), (0, 0, 60, group), (0, 60, 40, group))
    assert plan_sums(plan, [(0, 10, 90)]) == (array("Q"), [0])


@pytest.mark.parametrize(
    ("ranges", "says"), [([(0, 2, 1)], "start <= end"), ([(0, 5, 9), (1, 0, 9), (0, 0, 6)], "overlap at byte 5")]
)
def test_ranges_that_are_none_are_refused(ranges, says):
    with pytest.raises(ValueError, match=says):
        plan_sums(reads_of(), ranges)


def test_expected_sums_follow_the_plans_own_numbering_of_sources():
    tensors = [TensorInfo("a", "U8", (100,), 8, 108, shard=5), TensorInfo("b", "U8", (9,), 0, 9, shard=2)]
    empty, part = TensorInfo("e", "U8", (0,), 9, 9, shard=2), TensorInfo("p", "U8", (50,), 9, 59, shard=2)
    plan = reads_of((0, 0, 20, 0), (1, 8, 100, 0))
    got = expected_sums(plan, [*tensors, empty, part, *tensors], [2, 5], {"a": 1, "b": 2, "e": 0, "p": 3})
    assert list(got.sums) == [1, 0, 100, 0, 0, 0, 9, 1]
    assert list(got.expected) == [1, 2, UNKNOWN]
    assert got.names == ("a", "b", "p")
    assert got.unchecked == ("p",)
    with pytest.raises(KeyError):
        expected_sums(plan, tensors, [2, 5], {"a": 1})


def test_the_work_grows_with_reads_and_tensors_only(count_calls):
    def calls(count: int) -> int:
        ranges = [(0, at * 40, at * 40 + 40) for at in range(count)]
        plan = make_reading_plan([(0, 0, count * 40)], chunk_bytes=4096)
        return count_calls(lambda: plan_sums(plan, ranges))

    assert calls(8000) < 2.2 * calls(4000)


def test_lengths_of_many_bits_combine():
    zeros = google_crc32c.value(bytes(1 << 20))
    assert combine([(zeros, 1 << 20)] * 8) == google_crc32c.value(bytes(1 << 23))
    assert combine([(7, 1), (0, 1 << 62), (0, 1 << 62)]) == combine([(7, 1), (0, 1 << 63)])
