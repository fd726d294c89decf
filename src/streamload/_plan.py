"""Turn copies in execution order into flat, coalesced reads.

Floor 2; pure: knows ranges and addresses, neither tensors nor files. The engine runs the result. What a plan
promises: every wanted byte is read exactly once and written exactly once, nothing else is read, and no read
crosses a group. Read next: `_engine`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MAX_COPIES", "READ_ALIGNMENT", "Copy", "LoadPlan", "make_plan"]

MAX_COPIES = 512
"""Most copies that one read is scattered to; bounds the work between two chunks."""

READ_ALIGNMENT = 4096
"""File offsets that a cut between two reads falls on: what direct I/O wants on every disk in use."""

_U64_MAX = (1 << 64) - 1

_Range = tuple[int, int, int, int]  # shard, start, end, address
_Run = list[_Range]  # of one shard, each starting where the one before ends


@dataclass(frozen=True, slots=True)
class Copy:
    """Ask for a range of a file at an address.

    Attributes:
        shard: Index of the source.
        start: First byte in the file.
        end: One past the last byte in the file.
        address: Where the first byte goes, on the device.
    """

    shard: int
    start: int
    end: int
    address: int


def _no_numbers() -> array[int]:
    return array("Q")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Hold reads in the order they are issued, and where their bytes go.

    Attributes:
        group_count: Number of groups; some may have no reads.
        nbytes: Bytes that are read and copied.
        reads: Unsigned 64-bit, five to a read: source, file offset, length in bytes, group, first copy. The copies
            of a read end where those of the next begin.
        copies: Unsigned 64-bit, three to a copy: offset in the read, destination address, length in bytes.
        sums: Unsigned 64-bit, four to a piece whose CRC-32C is wanted: read, offset in the read, length in bytes,
            key. Sorted by key, then by offset in the file; the pieces of a key lie in one group.
        expected: One to a key: the CRC-32C of its pieces together, or 2^64 - 1 where it is not known.
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
        return len(self.copies) // 3


def make_plan(groups: Sequence[Sequence[Copy]], *, chunk_bytes: int) -> LoadPlan:
    """Plan the reads for groups of copies.

    Within a group, copies are taken in the order of their bytes in the files, and those that follow each other
    without a gap share a read. A read is cut before `chunk_bytes` or `MAX_COPIES` are passed, at a file offset that
    is a multiple of `READ_ALIGNMENT` where the range holds one. Copies of no bytes vanish. A range may be wanted
    at several addresses; it is then read for each.

    Args:
        groups: Copies per group, groups in execution order.
        chunk_bytes: Largest read in bytes.

    Raises:
        ValueError: A range is reversed or outside 64 bits, two destinations overlap, or `chunk_bytes` is below 1.
    """
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, got {chunk_bytes}")
    reads = array("Q")
    copies = array("Q")
    runs: list[_Run] = []
    for number, group in enumerate(groups):
        begin = len(runs)
        _join_neighbours(_check_copies(group), runs)
        for run in runs[begin:]:
            _cut_run(run, number, chunk_bytes, reads, copies)
    nbytes = _check_destinations(runs)
    return LoadPlan(len(groups), nbytes, reads, copies)


def _check_copies(group: Iterable[Copy]) -> list[_Range]:
    """Return the copies that have bytes, sorted by shard and offset."""
    ranges: list[_Range] = []
    for copy in group:
        shard, start, end, address = copy.shard, copy.start, copy.end, copy.address
        if not (0 <= start <= end <= _U64_MAX and 0 <= address <= _U64_MAX - (end - start) and 0 <= shard <= _U64_MAX):
            raise ValueError(f"{copy}: expected start <= end, and all numbers and address + length within 64 bits")
        if start != end:
            ranges.append((shard, start, end, address))
    ranges.sort()
    return ranges


def _join_neighbours(ranges: Iterable[_Range], runs: list[_Run]) -> None:
    """Append runs of ranges without a gap in the file; ranges without a gap at the destination too become one."""
    last_shard = last_end = last_address = -1
    for piece in ranges:
        shard, start, end, address = piece
        if start != last_end or shard != last_shard:
            runs.append([piece])
        elif address == last_address:
            _, first_start, _, first_address = runs[-1][-1]
            runs[-1][-1] = (shard, first_start, end, first_address)
        else:
            runs[-1].append(piece)
        last_shard, last_end, last_address = shard, end, address + end - start


def _cut_run(run: _Run, group: int, chunk_bytes: int, reads: array[int], copies: array[int]) -> None:
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
        reads.extend((shard, begin, end - begin, group, len(copies) // 3))
        while index < len(run) and run[index][1] < end:
            _, start, stop, address = run[index]
            first = max(start, begin)
            copies.extend((first - begin, address + first - start, min(stop, end) - first))
            if stop > end:
                break  # the rest of it belongs to the next read
            index += 1
        begin = end


def _check_destinations(runs: Iterable[_Run]) -> int:
    """Return how many bytes are written; refuse an address written twice."""
    destinations = sorted([(address, end - start) for run in runs for _, start, end, address in run])
    nbytes = 0
    previous = 0
    for address, length in destinations:
        if address < previous:
            raise ValueError(f"two copies write to address {address}: an earlier one reaches to {previous}")
        previous = address + length
        nbytes += length
    return nbytes
