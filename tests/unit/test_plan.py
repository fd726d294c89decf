"""Reads and copies of a plan, each rule with its smallest example."""

from __future__ import annotations

import itertools
from array import array

import pytest

from streamload._plan import MAX_COPIES, READ_ALIGNMENT, Copy, copies_of, find_overlap, make_plan

CHUNK = 1 << 16


def reads(plan):
    """(source, offset, nbytes, group, its copies as (offset, address, nbytes), with rows and pitches if there are)."""
    flat = list(zip(*[iter(plan.reads)] * 5, strict=True))
    copies = [copy if copy[3] > 1 else copy[:3] for copy in zip(*[iter(plan.copies)] * 6, strict=True)]
    ends = [read[4] for read in flat[1:]] + [len(copies)]
    return [(*read[:4], copies[read[4] : end]) for read, end in zip(flat, ends, strict=True)]


def test_neighbours_in_the_file_share_a_read():
    plan = make_plan([[Copy(0, 20, 30, 900), Copy(0, 10, 20, 500)]], chunk_bytes=CHUNK)
    assert reads(plan) == [(0, 10, 20, 0, [(0, 500, 10), (10, 900, 10)])]
    assert (plan.group_count, plan.nbytes, plan.read_count, plan.copy_count) == (1, 20, 1, 2)


def test_neighbours_in_file_and_memory_share_a_copy():
    plan = make_plan([[Copy(0, 20, 30, 510), Copy(0, 10, 20, 500), Copy(0, 30, 40, 520)]], chunk_bytes=CHUNK)
    assert reads(plan) == [(0, 10, 30, 0, [(0, 500, 30)])]


def test_gap_is_never_read():
    plan = make_plan([[Copy(0, 0, 10, 0), Copy(0, 11, 20, 100)]], chunk_bytes=CHUNK)
    assert [read[1:3] for read in reads(plan)] == [(0, 10), (11, 9)]


def test_read_never_crosses_a_group():
    plan = make_plan([[Copy(0, 10, 20, 0)], [], [Copy(0, 0, 10, 100)]], chunk_bytes=CHUNK)
    assert [read[:4] for read in reads(plan)] == [(0, 10, 10, 0), (0, 0, 10, 2)]
    assert plan.group_count == 3


def test_read_never_crosses_a_shard():
    plan = make_plan([[Copy(1, 0, 10, 0), Copy(0, 10, 20, 100), Copy(1, 10, 20, 200)]], chunk_bytes=CHUNK)
    assert [read[:3] for read in reads(plan)] == [(0, 10, 10), (1, 0, 20)]


def test_range_wanted_at_two_addresses_is_read_for_each():
    plan = make_plan([[Copy(0, 0, 10, 0), Copy(0, 0, 10, 100), Copy(0, 10, 20, 200)]], chunk_bytes=CHUNK)
    assert plan.nbytes == 30
    assert sum(read[2] for read in reads(plan)) == 30


def test_long_range_is_cut_at_aligned_offsets():
    plan = make_plan([[Copy(0, 100, 100 + 3 * CHUNK, 7)]], chunk_bytes=CHUNK)
    offsets = [read[1] for read in reads(plan)]
    assert offsets == [100, CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert all(read[2] <= CHUNK for read in reads(plan))
    assert reads(plan)[-1] == (0, 3 * CHUNK, 100, 0, [(0, 7 + 3 * CHUNK - 100, 100)])


def test_copy_that_spans_a_cut_goes_on_in_the_next_read():
    plan = make_plan([[Copy(0, 0, CHUNK - 10, 0), Copy(0, CHUNK - 10, CHUNK + 10, 1 << 20)]], chunk_bytes=CHUNK)
    first, second = reads(plan)
    assert first[4] == [(0, 0, CHUNK - 10), (CHUNK - 10, 1 << 20, 10)]
    assert second == (0, CHUNK, 10, 0, [(0, (1 << 20) + 10, 10)])


def test_chunk_below_the_alignment_cuts_where_it_must():
    plan = make_plan([[Copy(0, 5, 2005, 0)]], chunk_bytes=1000)
    assert [read[1:3] for read in reads(plan)] == [(5, 1000), (1005, 1000)]


def test_read_scatters_to_a_bounded_number_of_copies():
    group = [Copy(0, at * 100, at * 100 + 100, at * 1000) for at in range(3 * MAX_COPIES)]
    plan = make_plan([group], chunk_bytes=1 << 22)
    assert max(len(read[4]) for read in reads(plan)) <= MAX_COPIES
    assert all(read[1] % READ_ALIGNMENT == 0 for read in reads(plan))
    assert plan.nbytes == 300 * MAX_COPIES


def test_tiny_copies_are_cut_between_copies_where_no_aligned_offset_is():
    group = [Copy(0, at, at + 1, at * 10) for at in range(2 * MAX_COPIES)]
    assert [read[2] for read in reads(make_plan([group], chunk_bytes=1 << 22))] == [MAX_COPIES, MAX_COPIES]


def test_copies_of_no_bytes_vanish():
    plan = make_plan([[Copy(0, 10, 10, 5), Copy(0, 0, 10, 0), Copy(0, 5, 5, 3)]], chunk_bytes=CHUNK)
    assert reads(plan) == [(0, 0, 10, 0, [(0, 0, 10)])]


def test_nothing_wanted_is_an_empty_plan():
    plan = make_plan([], chunk_bytes=CHUNK)
    assert (plan.group_count, plan.nbytes, plan.read_count, plan.copy_count) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "copy",
    [
        Copy(0, 10, 9, 0),
        Copy(0, -1, 9, 0),
        Copy(0, 0, 1 << 64, 0),
        Copy(-1, 0, 9, 0),
        Copy(0, 0, 9, -1),
        Copy(0, 0, 9, (1 << 64) - 8),
        Copy(0, 5, 5, -1),
    ],
)
def test_impossible_copy_is_refused(copy):
    with pytest.raises(ValueError, match="expected start <= end"):
        make_plan([[copy]], chunk_bytes=CHUNK)


@pytest.mark.parametrize("groups", [[[0, 1]], [[0], [1]]])
def test_overlapping_destinations_are_refused(groups):
    copies = [Copy(0, 0, 10, 100), Copy(1, 50, 60, 109)]
    with pytest.raises(ValueError, match="two copies write to address 109: an earlier one reaches to 110"):
        make_plan([[copies[at] for at in group] for group in groups], chunk_bytes=CHUNK)


def test_chunk_of_no_bytes_is_refused():
    with pytest.raises(ValueError, match="chunk_bytes"):
        make_plan([], chunk_bytes=0)


@pytest.mark.parametrize("chunk_bytes", [(1 << 64) - 1, 1 << 70])
def test_a_chunk_may_be_larger_than_any_range(chunk_bytes):
    plan = make_plan([[Copy(0, 10, (1 << 64) - 1, 0)]], chunk_bytes=chunk_bytes)
    assert [read[:3] for read in reads(plan)] == [(0, 10, (1 << 64) - 11)]


@pytest.mark.parametrize("groups", [None, [None], [[None]], [[(0, 0, 10, 0)]], [[Copy("0", 0, 10, 0)]]])
def test_what_is_no_copy_is_refused(groups):
    with pytest.raises(TypeError, match=r"expected|NoneType"):
        make_plan(groups, chunk_bytes=CHUNK)


@pytest.mark.parametrize("gap", [0, 1])
def test_planning_calls_python_as_often_for_many_copies_as_for_few(count_calls, gap):
    def group(count):
        return [Copy(0, at * 300, at * 300 + 300 - gap, at * 512) for at in range(count)]

    few, many = group(4), group(40_000)  # many enough to be planned without the lock of the interpreter
    assert count_calls(lambda: make_plan([few], chunk_bytes=CHUNK)) == count_calls(
        lambda: make_plan([many], chunk_bytes=CHUNK)
    )


def test_long_ranges_with_places_of_their_own_are_read_apart():
    copies = [Copy(0, 0, 100, 5000), Copy(0, 100, 300, 9000), Copy(0, 300, 310, 7000), Copy(0, 310, 400, 7010)]

    def reads(apart_bytes):
        plan = make_plan([copies], chunk_bytes=1 << 20, apart_bytes=apart_bytes)
        return [tuple(plan.reads[i + 1 : i + 3]) for i in range(0, len(plan.reads), 5)]

    assert reads(None) == [(0, 400)]
    assert reads(100) == [(0, 100), (100, 200), (300, 100)]
    assert reads(101) == [(0, 100), (100, 200), (300, 100)]
    assert reads(201) == [(0, 400)]


def flat(copies):
    return array("Q", itertools.chain.from_iterable(copies))


def test_copies_may_come_as_their_numbers():
    groups = [[Copy(0, 20, 30, 900), Copy(0, 10, 20, 500)], [], [Copy(1, 0, 8, 100, 3, 16, 32)]]
    plan = make_plan(groups, chunk_bytes=CHUNK)
    assert make_plan([flat(group) for group in groups], chunk_bytes=CHUNK) == plan
    assert make_plan([groups[0], array("Q"), flat(groups[2])], chunk_bytes=CHUNK) == plan
    assert [list(copies_of(flat(group))) for group in groups] == groups
    assert copies_of(groups[0]) is groups[0]


@pytest.mark.parametrize(
    "copy", [Copy(0, 20, 10, 0), Copy(0, 0, 10, (1 << 64) - 5), Copy(0, 0, 10, 0, 0), Copy(0, 0, 10, 0, 2, 5, 20)]
)
def test_numbers_of_copies_are_checked_as_copies_are(copy):
    with pytest.raises(ValueError, match=r"^Copy\(") as as_copy:
        make_plan([[copy]], chunk_bytes=CHUNK)
    with pytest.raises(ValueError, match=r"^\(") as as_numbers:
        make_plan([flat([copy])], chunk_bytes=CHUNK)
    assert str(as_numbers.value) == str(as_copy.value).replace(repr(copy), repr(tuple(copy)))


def test_numbers_that_are_no_whole_copies_are_refused():
    with pytest.raises(ValueError, match="whole records"):
        make_plan([array("Q", range(8))], chunk_bytes=CHUNK)
    with pytest.raises(ValueError, match="whole records"):
        find_overlap([], array("Q", [1]))


def test_what_copies_write_to_is_numbered_after_the_blocks():
    whole = flat([Copy(0, 0, 10, 100), Copy(3, 50, 60, 105)])
    assert find_overlap([(0, 8, 1, 0)], whole) == (105, 1, 2)
    assert find_overlap([(0, 8, 1, 0)], whole[:7]) is None
    assert find_overlap([(108, 8, 1, 0)], whole[:7]) == (108, 1, 0)
    for wrong in (Copy(0, 0, 10, (1 << 64) - 5), Copy(0, 10, 5, 0), Copy(0, 0, 4, 0, 2, 8, 8)):
        with pytest.raises(ValueError, match="64 bits"):
            find_overlap([], flat([wrong]))


@pytest.mark.parametrize("wrong", [bytes(56), array("q", [0] * 7), memoryview(bytes(64))[1:57].cast("Q"), [(0,) * 7]])
def test_what_is_no_array_of_numbers_is_no_copies(wrong):
    with pytest.raises(TypeError, match="array"):
        find_overlap([], wrong)
    if not isinstance(wrong, list):
        with pytest.raises(TypeError, match="array"):
            make_plan([wrong], chunk_bytes=CHUNK)
