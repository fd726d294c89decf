"""Turn copies in execution order into flat, coalesced reads.

Floor 2; pure: knows ranges and addresses, neither tensors nor files. The engine runs the result. What a plan
promises: every wanted byte is read and written exactly once, nothing is read beside it but short gaps between rows,
and no read crosses a group. Read next: `_rows` for copies of many rows, `_overlap` for what may not meet, `_slots` for
what stays on a device that cannot hold everything, `_engine`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ._overlap import Block, find_overlap
from ._rows import READ_THROUGH, Rows, cut_rows, gather_rows, split_rows
from ._slots import SLOT_ALIGNMENT, SlotPlan, assign_slots, least_device_bytes, least_reuse_distance, plan_slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "MAX_COPIES",
    "READ_ALIGNMENT",
    "READ_THROUGH",
    "SLOT_ALIGNMENT",
    "Block",
    "Copy",
    "LoadPlan",
    "SlotPlan",
    "assign_slots",
    "find_overlap",
    "least_device_bytes",
    "least_reuse_distance",
    "make_plan",
    "make_reading_plan",
    "plan_slots",
]

MAX_COPIES = 512
"""Most copies that one read is scattered to; bounds the work between two chunks."""

READ_ALIGNMENT = 4096
"""File offsets that a cut between two reads falls on: what direct I/O wants on every disk in use."""

_U64_MAX = (1 << 64) - 1

_Range = tuple[int, int, int, int]  # shard, start, end, address
_Run = list[_Range]  # of one shard, each starting where the one before ends


class Copy(NamedTuple):  # and no dataclass: made in a quarter of the time, and there is one for each tensor
    """Ask for a range of a file at an address, or for rows of ranges at as many addresses.

    Attributes:
        shard: Index of the source.
        start: First byte in the file, of the first row.
        end: One past the last byte in the file, of the first row.
        address: Where the first byte goes, on the device.
        rows: How many; each is as long as the first.
        file_pitch: Bytes in the file from the start of one row to that of the next, at least a row's length. Of no
            meaning where there is one row.
        pitch: The same at the destination.
    """

    shard: int
    start: int
    end: int
    address: int
    rows: int = 1
    file_pitch: int = 0
    pitch: int = 0


def _no_numbers() -> array[int]:
    return array("Q")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Hold reads in the order they are issued, and where their bytes go.

    Attributes:
        group_count: Number of groups; some may have no reads.
        nbytes: Bytes that are copied.
        reads: Unsigned 64-bit, five to a read: source, file offset, length in bytes, group, first copy. The copies
            of a read end where those of the next begin.
        copies: Unsigned 64-bit, six to a copy: offset in the read, destination address, length of a row in bytes,
            rows, bytes from row to row in the read, and at the destination; both 0 where there is one row.
        sums: Unsigned 64-bit, four to a piece of what a checksum covers: read, offset in the read, length in bytes,
            key. By key, then by offset in the file.
        expected: The CRC-32C of each key, or 2^64 - 1 where it is not known.
    """

    group_count: int
    nbytes: int
    reads: array[int]
    copies: array[int]
    sums: array[int] = field(default_factory=_no_numbers)
    expected: array[int] = field(default_factory=_no_numbers)

    @property
    def read_count(self) -> int:
        """Number of reads."""
        return len(self.reads) // 5

    @property
    def copy_count(self) -> int:
        """Number of copies."""
        return len(self.copies) // 6


def make_plan(groups: Sequence[Sequence[Copy]], *, chunk_bytes: int, apart_bytes: int | None = None) -> LoadPlan:
    """Plan the reads for groups of copies.

    Within a group, copies are taken in the order of their bytes in the files, and those that follow each other
    without a gap share a read. A read is cut before `chunk_bytes` or `MAX_COPIES` are passed, at a file offset that
    is a multiple of `READ_ALIGNMENT` where the range holds one. Copies of no bytes vanish. A range may be wanted
    at several addresses; it is then read for each.

    Rows that lie at most `READ_THROUGH` bytes apart in the file are read together with what is between them, and so
    are copies that near to them; such reads are cut between rows where a chunk holds one. Rows further apart are
    ranges of their own.

    Args:
        groups: Copies per group, groups in execution order.
        chunk_bytes: Largest read in bytes.
        apart_bytes: A range of at least this much and a neighbour in the file that it does not meet at the
            destination are read apart, so that the long one can land in its place without staging. None: they share
            reads.

    Raises:
        ValueError: A range is reversed or outside 64 bits, rows overlap, two destinations overlap, or `chunk_bytes`
            is below 1.
    """
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, got {chunk_bytes}")
    reads: list[int] = []  # lists: twice as fast to extend as arrays
    copies: list[int] = []
    runs: list[_Run] = []
    row_runs: list[list[Rows]] = []
    for number, group in enumerate(groups):
        begin, row_begin = len(runs), len(row_runs)
        ranges, rows = _check_copies(group)
        if rows:
            ranges = gather_rows(ranges, rows, row_runs)
        _join_neighbours(ranges, runs, apart_bytes or _U64_MAX)
        waiting = row_runs[row_begin:][::-1]
        for run in (*runs[begin:], None):
            while waiting and (run is None or waiting[-1][0] < run[0]):  # in the order of the file
                cut_rows(waiting.pop(), number, chunk_bytes, READ_ALIGNMENT, reads, copies)
            if run is not None:
                _cut_run(run, number, chunk_bytes, reads, copies)
    nbytes = _check_destinations(runs, row_runs)
    return LoadPlan(len(groups), nbytes, array("Q", reads), array("Q", copies))


def make_reading_plan(ranges: Sequence[tuple[int, int, int]], *, chunk_bytes: int) -> LoadPlan:
    """Plan to read ranges and copy nothing, one group to a range; cuts fall on multiples of `chunk_bytes`.

    Args:
        ranges: Source, start and end of each, in the order they are read.
        chunk_bytes: Largest read in bytes.
    """
    reads = array("Q")
    for group, (source, start, end) in enumerate(ranges):
        while start < end:
            stop = min(start - start % chunk_bytes + chunk_bytes, end)
            reads.extend((source, start, stop - start, group, 0))
            start = stop
    return LoadPlan(len(ranges), 0, reads, array("Q"))


def _check_copies(group: Iterable[Copy]) -> tuple[list[_Range], list[Rows]]:
    """Return the copies that have bytes, sorted by shard and offset; apart from them those in rows."""
    ranges: list[_Range] = []
    rows: list[Rows] = []
    for copy in group:
        shard, start, end, address, count, file_pitch, pitch = copy
        if not (0 <= start <= end <= _U64_MAX and 0 <= address <= _U64_MAX - (end - start) and 0 <= shard <= _U64_MAX):
            raise ValueError(f"{copy}: expected start <= end, and all numbers and address + length within 64 bits")
        if count != 1:
            _check_rows(copy)
            if start != end:
                split_rows((shard, start, end, address, count, file_pitch, pitch), ranges, rows)
        elif start != end:
            ranges.append((shard, start, end, address))
    ranges.sort()
    return ranges, rows


def _check_rows(copy: Copy) -> None:
    nbytes, last = copy.end - copy.start, copy.rows - 1
    if last < 1 or copy.file_pitch < nbytes or copy.pitch < nbytes:
        raise ValueError(f"{copy}: expected at least one row, and pitches of at least a row's {nbytes} bytes")
    if copy.end + last * copy.file_pitch > _U64_MAX or copy.address + last * copy.pitch > _U64_MAX - nbytes:
        raise ValueError(f"{copy}: expected the last row to end within 64 bits")


def _join_neighbours(ranges: Iterable[_Range], runs: list[_Run], apart_bytes: int) -> None:
    """Append runs of ranges without a gap in the file; ranges without a gap at the destination too become one."""
    last_shard = last_end = last_address = last_start = -1
    for piece in ranges:
        shard, start, end, address = piece
        if start != last_end or shard != last_shard:
            runs.append([piece])
        elif address == last_address:
            _, first_start, _, first_address = runs[-1][-1]
            runs[-1][-1] = (shard, first_start, end, first_address)
            start = first_start
        elif end - start >= apart_bytes or last_end - last_start >= apart_bytes:
            runs.append([piece])
        else:
            runs[-1].append(piece)
        last_shard, last_start, last_end, last_address = shard, start, end, piece[3] + end - piece[1]


def _cut_run(run: _Run, group: int, chunk_bytes: int, reads: list[int], copies: list[int]) -> None:
    shard, begin, _, _ = run[0]
    run_end = run[-1][2]
    index = 0
    while begin < run_end:
        # Counted from the aligned block it starts in, so that a direct read of it fits a buffer of chunk_bytes too.
        lead = begin % READ_ALIGNMENT if chunk_bytes > READ_ALIGNMENT else 0
        end = min(begin - lead + chunk_bytes, run[min(index + MAX_COPIES, len(run)) - 1][2])
        aligned = end - end % READ_ALIGNMENT
        if end < run_end and aligned > begin:
            end = aligned
        reads += (shard, begin, end - begin, group, len(copies) // 6)
        while index < len(run) and run[index][1] < end:
            _, start, stop, address = run[index]
            first = max(start, begin)
            copies += (first - begin, address + first - start, min(stop, end) - first, 1, 0, 0)
            if stop > end:
                break  # the rest of it belongs to the next read
            index += 1
        begin = end


def _check_destinations(runs: Iterable[_Run], row_runs: Iterable[list[Rows]]) -> int:
    """Return how many bytes are written; refuse an address written twice."""
    blocks: list[Block] = [(address, end - start, 1, 0) for run in runs for _, start, end, address in run]
    for row_run in row_runs:
        blocks += [(address, end - start, rows, pitch) for _, start, end, address, rows, _, pitch in row_run]
    met = find_overlap(blocks)
    if met is not None:
        at, first, _ = met
        address, nbytes, _, pitch = blocks[first]
        reach = address + nbytes + (pitch and (at - address) // pitch * pitch)
        raise ValueError(f"two copies write to address {at}: an earlier one reaches to {reach}")
    return sum([nbytes * rows for _, nbytes, rows, _ in blocks])
