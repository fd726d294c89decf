"""Rows: every wanted byte is written once and where it belongs, and only short gaps are read beside them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streamload._plan import MAX_COPIES, READ_THROUGH, Copy, find_overlap, make_plan

LONGEST = 3 * READ_THROUGH


@st.composite
def row_copies(draw):
    """Copies with disjoint destinations: rows near and far apart, plain ranges between them, columns interleaved."""
    copies = []
    address = draw(st.integers(0, 1 << 40))
    start = 0
    for _ in range(draw(st.integers(0, 6))):
        shard = draw(st.integers(0, 1))
        start = max(0, start + draw(st.sampled_from([0, 1, -1, 700, READ_THROUGH, READ_THROUGH + 1, -2000])))
        widths = draw(st.lists(st.integers(0, 300), min_size=1, max_size=3))
        rows = draw(st.integers(1, 9))
        gap = draw(st.sampled_from([0, 0, 1, 500, READ_THROUGH, READ_THROUGH + 1, LONGEST]))
        file_pitch = sum(widths) + gap
        pitch = sum(widths) + draw(st.sampled_from([0, 0, 3, 256]))
        first, column = start, address
        for width in widths:
            own_pitch = draw(st.sampled_from([pitch, width])) if len(widths) == 1 else pitch
            copies.append(Copy(shard, first, first + width, column, rows, file_pitch, own_pitch))
            first, column = first + width, column + width
        address += rows * pitch
        start += rows * file_pitch - draw(st.sampled_from([0, gap]))
    return draw(st.permutations(copies))


def rows_of(copy):
    """The plain copies that a copy of many rows stands for."""
    for row in range(copy.rows):
        by, to = row * copy.file_pitch, row * copy.pitch
        yield Copy(copy.shard, copy.start + by, copy.end + by, copy.address + to)


@given(row_copies(), st.sampled_from([64, 1000, 4096, 8192, 1 << 16]))
def test_every_wanted_byte_is_written_once_and_only_short_gaps_are_read_beside(copies, chunk_bytes):
    plan = make_plan([copies], chunk_bytes=chunk_bytes)
    plain = [row for copy in copies for row in rows_of(copy)]
    wanted = Counter((c.shard, c.start + at, c.address + at) for c in plain for at in range(c.end - c.start))
    flat = list(zip(*[iter(plan.reads)] * 5, strict=True))
    steps = list(zip(*[iter(plan.copies)] * 6, strict=True))
    ends = [*[read[4] for read in flat], len(steps)][1:]
    written: Counter = Counter()
    for (shard, offset, nbytes, _, first), end in zip(flat, ends, strict=True):
        assert 0 < nbytes <= chunk_bytes
        assert 0 < end - first <= MAX_COPIES
        used = set()
        for inner, address, length, rows, file_pitch, pitch in steps[first:end]:
            assert rows > 1 or (file_pitch, pitch) == (0, 0)
            for row in range(rows):
                at = inner + row * file_pitch
                used |= set(range(at, at + length))
                written.update((shard, offset + at + i, address + row * pitch + i) for i in range(length))
        assert used <= set(range(nbytes))
        assert {0, nbytes - 1} <= used, "a read begins and ends at wanted bytes"
        unused = sorted(set(range(nbytes)) - used)
        gaps = [unused[i - READ_THROUGH : i + 1] for i in range(READ_THROUGH, len(unused))]
        assert not [gap for gap in gaps if gap[-1] - gap[0] == READ_THROUGH], "a gap too wide was read"
    assert written == wanted
    assert plan.nbytes == wanted.total()


@given(row_copies())
def test_order_of_copies_does_not_matter(copies):
    forward = make_plan([copies], chunk_bytes=4096)
    assert make_plan([copies[::-1]], chunk_bytes=4096).nbytes == forward.nbytes
    assert make_plan([copies[::-1]], chunk_bytes=4096).reads == forward.reads


@st.composite
def blocks(draw):
    """Blocks of memory, close enough together to meet at times: of one pitch or of several."""
    pitches = draw(st.lists(st.integers(4, 12), min_size=1, max_size=2))
    made = []
    for _ in range(draw(st.integers(0, 5))):
        rows = draw(st.integers(1, 4))
        pitch = draw(st.sampled_from(pitches))
        nbytes = draw(st.integers(1, pitch if rows > 1 else 30))
        made.append((draw(st.integers(0, 60)), nbytes, rows, pitch if rows > 1 else 0))
    return made


def bytes_of(block):
    address, nbytes, rows, pitch = block
    return {address + row * pitch + at for row in range(rows) for at in range(nbytes)}


@given(blocks())
def test_an_overlap_is_found_where_there_is_one_and_only_there(made):
    held = Counter(at for block in made for at in bytes_of(block))
    met = find_overlap(made)
    assert (met is not None) == any(count > 1 for count in held.values())
    if met is not None:
        at, first, second = met
        assert first != second
        assert at in bytes_of(made[first]) & bytes_of(made[second])
