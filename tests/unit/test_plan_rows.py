"""Copies of many rows, each rule with its smallest example."""

from __future__ import annotations

import re

import pytest

from streamload._plan import MAX_COPIES, READ_THROUGH, Copy, find_overlap, make_plan

CHUNK = 1 << 16


def reads(plan):
    """(source, offset, nbytes, its copies as six numbers each)."""
    flat = list(zip(*[iter(plan.reads)] * 5, strict=True))
    copies = list(zip(*[iter(plan.copies)] * 6, strict=True))
    ends = [read[4] for read in flat[1:]] + [len(copies)]
    return [(*read[:3], copies[read[4] : end]) for read, end in zip(flat, ends, strict=True)]


def test_near_rows_are_read_together_and_copied_as_one():
    plan = make_plan([[Copy(0, 100, 150, 7, 4, 200, 60)]], chunk_bytes=CHUNK)
    assert reads(plan) == [(0, 100, 650, [(0, 7, 50, 4, 200, 60)])]
    assert plan.nbytes == 200
    assert not plan.sums
    assert not plan.expected


@pytest.mark.parametrize(("gap", "count"), [(READ_THROUGH, 1), (READ_THROUGH + 1, 3)])
def test_rows_too_far_apart_are_reads_of_their_own(gap, count):
    plan = make_plan([[Copy(0, 0, 50, 0, 3, 50 + gap, 50)]], chunk_bytes=CHUNK)
    assert plan.read_count == count
    assert sum(read[2] for read in reads(plan)) == 150 + (2 * gap if count == 1 else 0)


def test_rows_without_gaps_are_one_range():
    plain = make_plan([[Copy(0, 0, 300, 40)]], chunk_bytes=CHUNK)
    assert make_plan([[Copy(0, 0, 100, 40, 3, 100, 100)]], chunk_bytes=CHUNK) == plain
    assert make_plan([[Copy(0, 0, 100, 40, 2, 100, 100), Copy(0, 200, 300, 240)]], chunk_bytes=CHUNK) == plain


def test_rows_without_gaps_in_the_file_spread_at_the_destination():
    plan = make_plan([[Copy(0, 0, 100, 0, 3, 100, 500)]], chunk_bytes=CHUNK)
    assert reads(plan) == [(0, 0, 300, [(0, 0, 100, 3, 100, 500)])]


def test_reads_are_cut_between_rows():
    plan = make_plan([[Copy(0, 0, 30_000, 0, 5, 31_000, 30_000)]], chunk_bytes=CHUNK)
    assert reads(plan) == [
        (0, 0, 61_000, [(0, 0, 30_000, 2, 31_000, 30_000)]),
        (0, 62_000, 61_000, [(0, 60_000, 30_000, 2, 31_000, 30_000)]),
        (0, 124_000, 30_000, [(0, 120_000, 30_000, 1, 0, 0)]),
    ]


def test_a_row_larger_than_a_chunk_is_cut_inside():
    plan = make_plan([[Copy(0, 0, 100_000, 0, 2, 100_010, 100_000)]], chunk_bytes=CHUNK)
    assert [(read[1], read[2]) for read in reads(plan)] == [
        (0, CHUNK),
        (CHUNK, 100_000 - CHUNK),
        (100_010, 3 * CHUNK - 32_768 - 100_010),
        (3 * CHUNK - 32_768, 200_010 - 3 * CHUNK + 32_768),
    ]
    assert all(copy[3:] == (1, 0, 0) for read in reads(plan) for copy in read[3])


def test_interleaved_columns_share_a_read():
    columns = [Copy(0, at, at + 100, 1000 * at, 8, 300, 100) for at in (0, 100, 200)]
    assert reads(make_plan([columns], chunk_bytes=CHUNK)) == [
        (0, 0, 2400, [(at, 1000 * at, 100, 8, 300, 100) for at in (0, 100, 200)])
    ]


def test_what_lies_near_rows_is_read_with_them():
    group = [Copy(0, 0, 100, 0), Copy(0, 200, 250, 1000, 3, 100, 50), Copy(0, 600, 700, 2000)]
    (read,) = reads(make_plan([group], chunk_bytes=CHUNK))
    assert read[:3] == (0, 0, 700)
    assert [copy[:4] for copy in read[3]] == [(0, 0, 100, 1), (200, 1000, 50, 3), (600, 2000, 100, 1)]


def test_rows_and_ranges_come_in_the_order_of_the_file():
    far = 10 * READ_THROUGH
    group = [Copy(0, far * at, far * at + 10, at * 100, 1 + at % 2, 20, 10) for at in range(6)]
    assert [read[1] for read in reads(make_plan([group[::-1]], chunk_bytes=CHUNK))] == [far * at for at in range(6)]


def test_a_read_of_rows_scatters_to_a_bounded_number_of_copies():
    group = [Copy(0, at * 40, at * 40 + 10, at * 1000, 2, 20, 100) for at in range(3 * MAX_COPIES)]
    plan = make_plan([group], chunk_bytes=1 << 22)
    assert max(len(read[3]) for read in reads(plan)) <= MAX_COPIES
    assert plan.nbytes == 60 * MAX_COPIES


@pytest.mark.parametrize(
    "copy",
    [
        Copy(0, 0, 10, 0, 0, 10, 10),
        Copy(0, 0, 10, 0, -1, 10, 10),
        Copy(0, 0, 10, 0, 2, 9, 10),
        Copy(0, 0, 10, 0, 2, 10, 9),
        Copy(0, 0, 10, 0, 2, 1 << 64, 10),
        Copy(0, 0, 10, 0, 2, 10, 1 << 64),
    ],
)
def test_impossible_rows_are_refused(copy):
    with pytest.raises(ValueError, match=r"Copy\(.*: expected"):
        make_plan([[copy]], chunk_bytes=CHUNK)


NONE = "expected at least one row, and pitches of at least a row's 10 bytes"
BEYOND = "expected the last row to end within 64 bits"


@pytest.mark.parametrize(
    ("rows", "file_pitch", "pitch", "words"),
    [
        (0, 10, 10, NONE),
        (-(1 << 70), 10, 10, NONE),
        (2, -(1 << 70), 1 << 70, NONE),
        (1 << 70, 9, 10, NONE),
        (2, 10, -1, NONE),
        (1 << 70, 10, 10, BEYOND),
        (2, 1 << 70, 10, BEYOND),
        (2, 10, (1 << 64) - 10, BEYOND),
        (1 << 62, 10, 10, BEYOND),
    ],
)
def test_rows_outside_64_bits_are_refused_with_the_copy_and_the_reason(rows, file_pitch, pitch, words):
    copy = Copy(0, 0, 10, 0, rows, file_pitch, pitch)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{copy}: {words}')}$"):
        make_plan([[copy]], chunk_bytes=CHUNK)


def test_pitches_of_one_row_have_no_meaning():
    assert make_plan([[Copy(0, 0, 10, 0, 1, -1, 1 << 70)]], chunk_bytes=CHUNK).nbytes == 10


@pytest.mark.parametrize("shift", [-9, 0, 9, 91, 99])
def test_rows_that_meet_are_refused(shift):
    copies = [Copy(0, 0, 10, 1000, 3, 10, 100), Copy(1, 0, 10, 1000 + shift, 2, 10, 100)]
    with pytest.raises(ValueError, match=r"two copies write to address \d+: an earlier one reaches to"):
        make_plan([copies], chunk_bytes=CHUNK)


@pytest.mark.parametrize("shift", [-10, 10, 90, 290])
def test_rows_between_each_other_are_legal(shift):
    copies = [Copy(0, 0, 10, 1000, 3, 10, 100), Copy(1, 0, 10, 1000 + shift, 2, 10, 100)]
    assert make_plan([copies], chunk_bytes=CHUNK).nbytes == 50


@pytest.mark.parametrize("rows", [10, 10**16])
def test_columns_are_told_apart_without_taking_their_rows_apart(rows):
    columns = [(at * 8, 8, rows, 800) for at in range(100)]
    assert find_overlap(columns) is None
    last = (rows - 1) * 800 + 399
    assert find_overlap([*columns, (last, 1, 1, 0)]) == (last, 49, 100)


@pytest.mark.parametrize(
    "block",
    [(-1, 8, 1, 0), (1 << 64, 8, 1, 0), ((1 << 64) - 8, 8, 1, 0), (0, 8, 0, 8), (0, 8, 2, 7), (0, 8, 1 << 70, 8)],
)
def test_what_is_no_block_of_memory_is_refused(block):
    with pytest.raises(ValueError, match="expected rows that do not overlap, and the last to end within 64 bits"):
        find_overlap([block])
