"""Pieces of a plan cover each tensor once or leave it out, and checksums of pieces join to that of the whole."""

from __future__ import annotations

from array import array
from itertools import pairwise

import google_crc32c
from hypothesis import example, given
from hypothesis import strategies as st

from streamload._checksums import combine, plan_sums
from streamload._plan import Copy, LoadPlan, make_plan, make_reading_plan

SHARD_NBYTES = 20_000


def reads_of(*reads: tuple[int, int, int, int]) -> LoadPlan:
    """A plan of such reads: source, offset, length, group."""
    flat = array("Q", [number for read in reads for number in (*read, 0)])
    return LoadPlan(1 + max([read[3] for read in reads], default=0), 0, flat, array("Q"))


def pieces_of(plan: LoadPlan, sums: array[int]) -> dict[int, list[tuple[int, int, int, int]]]:
    """Source, start, end and group of the pieces of each key, in the order given."""
    pieces: dict[int, list[tuple[int, int, int, int]]] = {}
    for read, at, nbytes, key in zip(*[iter(sums)] * 4, strict=True):
        source, offset, length, group, _ = plan.reads[5 * read : 5 * read + 5]
        assert 0 < nbytes <= length - at, "a piece lies in its read"
        pieces.setdefault(key, []).append((source, offset + at, offset + at + nbytes, group))
    return pieces


@st.composite
def cut_ranges(draw):
    """Ranges of several sources that do not overlap, in any order, some empty, some with gaps between."""
    ranges = []
    for source in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.lists(st.integers(0, SHARD_NBYTES), max_size=10)))
        ranges += [(source, start, end) for start, end in pairwise(cuts)]
    kept = draw(st.lists(st.booleans(), min_size=len(ranges), max_size=len(ranges)))
    return draw(st.permutations([each for each, keep in zip(ranges, kept, strict=True) if keep]))


READS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, SHARD_NBYTES), st.integers(1, 8000), st.integers(0, 2)), max_size=25
)


@given(cut_ranges(), READS)
@example([(1, 0, 2)], [(1, 0, 1, 0), (1, 0, 2, 0)])  # two reads of one group that overlap
@example([(0, 0, 1)], [(0, 0, 1, 0), (0, 1, 1, 1)])  # a read of what lies between ranges
def test_a_range_is_covered_once_by_one_group_or_left_out(ranges, reads):
    plan = reads_of(*sorted(reads, key=lambda read: read[3]))
    sums, left_out = plan_sums(plan, ranges)
    pieces = pieces_of(plan, sums)
    for key, (source, start, end) in enumerate(ranges):
        in_groups = [
            [
                at
                for read_source, offset, nbytes, read_group in reads
                if (read_source, read_group) == (source, group)
                for at in range(max(offset, start), min(offset + nbytes, end))
            ]
            for group in range(3)
        ]
        read_once = sum(map(len, in_groups)) == end - start
        whole = read_once and any(len(set(read)) == end - start for read in in_groups)
        assert (key in left_out) == (not whole)
        held = pieces.get(key, [])
        assert bool(held) == (whole and start != end)
        assert len({(piece[0], piece[3]) for piece in held}) <= 1, "one source, one group"
        ends = [start, *[piece[2] for piece in held]]
        assert [piece[1] for piece in held] == ends[: len(held)], "each goes on where the one before ended"
        assert not held or ends[-1] == end
    assert left_out == sorted(left_out)
    assert list(sums[3::4]) == sorted(sums[3::4])


@given(cut_ranges(), st.sampled_from([512, 4096, 5000, 1 << 16]), st.integers(1, 4))
def test_every_tensor_of_a_load_is_checked_wherever_reads_are_cut(ranges, chunk_bytes, group_count):
    groups: list[list[Copy]] = [[] for _ in range(group_count)]
    address = 256
    for number, (source, start, end) in enumerate(ranges):
        groups[number % group_count].append(Copy(source, start, end, address))
        address += end - start
    plan = make_plan(groups, chunk_bytes=chunk_bytes)
    sums, left_out = plan_sums(plan, ranges)
    assert left_out == []
    assert sum(sums[2::4]) == plan.nbytes


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=3), st.sampled_from([1000, 4096, 8192]))
def test_a_reading_plan_reads_every_byte_once_in_order(lengths, chunk_bytes):
    ranges = [(source, source, source + nbytes) for source, nbytes in enumerate(lengths)]
    plan = make_reading_plan(ranges, chunk_bytes=chunk_bytes)
    assert (plan.group_count, plan.nbytes, plan.copy_count) == (len(lengths), 0, 0)
    for group, (source, start, end) in enumerate(ranges):
        mine = [read for read in zip(*[iter(plan.reads)] * 5, strict=True) if read[3] == group]
        ends = [start, *[offset + nbytes for _, offset, nbytes, _, _ in mine]]
        assert [(read[0], read[1]) for read in mine] == [(source, at) for at in ends[:-1]]
        assert ends[-1] == end
        assert all(at % chunk_bytes == 0 for at in ends[1:-1])
        assert all(0 < read[2] <= chunk_bytes for read in mine)


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_pieces_combine_to_the_sum_of_the_whole(pieces):
    parts = [(google_crc32c.value(piece), len(piece)) for piece in pieces]
    assert combine(parts) == google_crc32c.value(b"".join(pieces))


@given(st.binary(min_size=1, max_size=5000), st.data())
def test_any_cut_combines_to_the_sum_of_the_whole(data, draw):
    cut = draw.draw(st.integers(0, len(data)))
    parts = [(google_crc32c.value(piece), len(piece)) for piece in (data[:cut], data[cut:])]
    assert combine(parts) == google_crc32c.value(data)
