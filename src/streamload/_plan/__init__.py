"""Turn copies in execution order into flat, coalesced reads.

Floor 2; pure: knows ranges and addresses, neither tensors nor files. The engine runs the result. What a plan
promises: every wanted byte is read and written exactly once, nothing is read beside it but short gaps between rows,
and no read crosses a group. Planning is native: `csrc/plan/planner.hpp`. Read next: `_slots` for what stays on a device
that cannot hold everything, `_engine`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .. import _native
from .._native import MAX_COPIES, READ_ALIGNMENT, READ_THROUGH
from ._slots import SLOT_ALIGNMENT, SlotPlan, assign_slots, least_device_bytes, least_reuse_distance, plan_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "MAX_COPIES",
    "READ_ALIGNMENT",
    "READ_THROUGH",
    "SLOT_ALIGNMENT",
    "Block",
    "Copies",
    "Copy",
    "LoadPlan",
    "SlotPlan",
    "assign_slots",
    "copies_of",
    "find_overlap",
    "least_device_bytes",
    "least_reuse_distance",
    "make_copy",
    "make_plan",
    "make_reading_plan",
    "plan_slots",
]

_U64_MAX = (1 << 64) - 1

Block = tuple[int, int, int, int]  # address, bytes of a row, rows, bytes from row to row


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


Copies: TypeAlias = "Sequence[Copy] | array[int]"
"""A group of copies: as such, or as their seven fields one after the other, unsigned 64-bit: no object for each."""


def copies_of(group: Copies) -> Iterable[Copy]:
    """Return the copies of a group, however it holds them."""
    return map(Copy._make, zip(*[iter(group)] * len(Copy._fields), strict=True)) if isinstance(group, array) else group


def _no_numbers() -> array[int]:
    return array("Q")


make_copy: Callable[[tuple[int, ...]], Copy] = partial(tuple.__new__, Copy)
"""Make a copy of all seven fields: the class's own call takes several times as long, and there may be 20,000."""


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


def make_plan(groups: Sequence[Copies], *, chunk_bytes: int, apart_bytes: int | None = None) -> LoadPlan:
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
    apart = min(max(0, apart_bytes), _U64_MAX) if apart_bytes else _U64_MAX
    nbytes, reads, copies = _native.plan_copies(groups, min(chunk_bytes, _U64_MAX), apart)
    return LoadPlan(len(groups), nbytes, array("Q", reads), array("Q", copies))


def find_overlap(blocks: Sequence[Block], whole: array[int] | None = None) -> tuple[int, int, int] | None:
    """Return an address that two blocks hold, and their positions, the one that begins before the other first.

    None: no two blocks meet.

    Args:
        blocks: What is written to.
        whole: Copies of one row, as an array of their fields: what they write to are blocks, numbered after the others.

    Raises:
        ValueError: A block has no rows, or some that overlap, or ends outside 64 bits.
    """
    return _native.find_overlap(blocks, whole)


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
