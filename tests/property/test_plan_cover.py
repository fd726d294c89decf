"""A plan reads each wanted byte once, puts it where it is wanted, and reads nothing else."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamload._plan import MAX_COPIES, READ_ALIGNMENT, Copy, make_plan

SHARD_NBYTES = 40_000


@st.composite
def copy_groups(draw):
    """Groups of copies with disjoint destinations: pieces of shards, some adjacent, some wanted twice, some empty."""
    pieces = []
    for shard in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.lists(st.integers(0, SHARD_NBYTES), max_size=12)))
        pieces += [(shard, start, end) for start, end in pairwise(cuts)]
    wanted = [piece for piece in pieces for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2])))]
    address = draw(st.integers(0, 1 << 40))
    copies = []
    for shard, start, end in wanted:
        copies.append(Copy(shard, start, end, address))
        address += end - start + draw(st.sampled_from([0, 0, 1, 256]))
    copies = draw(st.permutations(copies))
    groups = [[] for _ in range(draw(st.integers(1, 4)))]
    for copy in copies:
        groups[draw(st.integers(0, len(groups) - 1))].append(copy)
    return groups


def bytes_wanted(copies) -> Counter:
    return Counter(
        (copy.shard, copy.start + at, copy.address + at) for copy in copies for at in range(copy.end - copy.start)
    )


@given(copy_groups(), st.sampled_from([1, 1000, 4096, 5000, 8192, 1 << 16]))
def test_every_wanted_byte_is_read_once_and_nothing_else(groups, chunk_bytes):
    if chunk_bytes == 1:  # one read a byte: keep it small
        groups = [group[:1] for group in groups]
        groups = [[Copy(c.shard, c.start, min(c.end, c.start + 50), c.address) for c in group] for group in groups]
    plan = make_plan(groups, chunk_bytes=chunk_bytes)
    flat = list(zip(*[iter(plan.reads)] * 5, strict=True))
    copies = list(zip(*[iter(plan.copies)] * 6, strict=True))
    ends = [*[read[4] for read in flat], len(copies)][1:]
    covered: list[Counter] = [Counter() for _ in groups]
    for (shard, offset, nbytes, group, first), end in zip(flat, ends, strict=True):
        assert 0 < nbytes <= chunk_bytes
        assert 0 < end - first <= MAX_COPIES
        at = 0
        for inner, address, length, *rows in copies[first:end]:
            assert rows == [1, 0, 0]
            assert inner == at, "the copies of a read cover it from its start to its end"
            at += length
            covered[group].update((shard, offset + inner + step, address + step) for step in range(length))
        assert at == nbytes
    assert covered == [bytes_wanted(group) for group in groups]
    assert plan.nbytes == sum(counter.total() for counter in covered)
    assert plan.group_count == len(groups)
    assert [read[3] for read in flat] == sorted(read[3] for read in flat), "groups come in order"


@given(copy_groups(), st.sampled_from([4096, 5000, 8192, 1 << 16]))
def test_cuts_inside_a_run_are_aligned(groups, chunk_bytes):
    plan = make_plan(groups, chunk_bytes=chunk_bytes)
    flat = list(zip(*[iter(plan.reads)] * 5, strict=True))
    for before, after in pairwise(flat):
        if (before[0], before[3], before[1] + before[2]) == (after[0], after[3], after[1]):
            assert after[1] % READ_ALIGNMENT == 0


@given(copy_groups())
def test_order_within_a_group_does_not_matter(groups):
    forward = make_plan(groups, chunk_bytes=4096)
    assert make_plan([group[::-1] for group in groups], chunk_bytes=4096) == forward
