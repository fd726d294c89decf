"""Find the pieces of a plan that make up each tensor, and join checksums of neighbours.

Part of `_checksums`. The engine sums each piece while its bytes pass and joins the pieces of a key by itself;
what is joined here are tensors, into the checksum of their file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._native import crc32c_combine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .._format import TensorInfo
    from .._plan import LoadPlan

UNKNOWN: Final = (1 << 64) - 1
"""In `LoadPlan.expected`: compare with nothing."""

_Range = tuple[int, int, int]  # source, start, end
_Piece = tuple[int, int, int, int, int]  # key, offset in the file, group, read, length


@dataclass(frozen=True, slots=True)
class ExpectedSums:
    """Hold what a plan's tensors should sum to, one key to a tensor.

    Attributes:
        sums: For `LoadPlan.sums`.
        expected: For `LoadPlan.expected`.
        names: The tensor of each key.
        unchecked: Tensors that cannot be compared, because the plan reads only a part of them, reads them more than
            once, or spreads them over several groups. They have a key, and no pieces.
    """

    sums: array[int]
    expected: array[int]
    names: tuple[str, ...]
    unchecked: tuple[str, ...]


def expected_sums(
    plan: LoadPlan, tensors: Iterable[TensorInfo], sources: Sequence[int], known: Mapping[str, int]
) -> ExpectedSums:
    """Return what the tensors of a plan should sum to.

    Args:
        plan: The plan, without sums.
        tensors: The tensors it loads; one that is named several times counts once, one without bytes not at all.
        sources: For each source of the plan, the checkpoint's shard that it is.
        known: CRC-32C by tensor name, from `known_sums`.

    Raises:
        KeyError: A tensor's checksum is not known, or its shard is no source of the plan.
    """
    number = {shard: source for source, shard in enumerate(sources)}
    wanted = [info for info in {info.name: info for info in tensors}.values() if info.start != info.end]
    sums, left_out = plan_sums(plan, [(number[info.shard], info.start, info.end) for info in wanted])
    expected = array("Q", [known[info.name] for info in wanted])
    for key in left_out:
        expected[key] = UNKNOWN
    names = tuple([info.name for info in wanted])
    return ExpectedSums(sums, expected, names, tuple([names[key] for key in left_out]))


def plan_sums(plan: LoadPlan, ranges: Sequence[_Range]) -> tuple[array[int], list[int]]:
    """Cut ranges of files into the pieces that a plan reads, each byte of a range once.

    Args:
        plan: Its reads; where they go does not matter.
        ranges: Source, start and end of each key; those of one source do not overlap. A range without bytes has no
            pieces.

    Returns:
        `LoadPlan.sums`, and the keys left out of it, ascending: no group of the plan reads all of their range, or
        some of it is read more than once.

    Raises:
        ValueError: A range is reversed, or two of them overlap.
    """
    lookup = _by_source(ranges)
    reached = [start for _, start, _ in ranges]
    group_of = [-1] * len(ranges)
    pieces: list[_Piece] = []
    repeated: set[int] = set()
    offsets = plan.reads[1::5]
    columns = (plan.reads[3::5], plan.reads[0::5], offsets, plan.reads[2::5], range(plan.read_count))
    for group, source, offset, nbytes, read in sorted(zip(*columns, strict=True)):
        if source not in lookup:
            continue
        starts, members = lookup[source]
        stop = offset + nbytes
        for at in range(max(bisect_right(starts, offset) - 1, 0), len(starts)):
            start, end, key = members[at]
            if start >= stop:
                break
            if end <= offset:
                continue
            if group_of[key] != group:
                if reached[key] == end:
                    repeated.add(key)  # an earlier group reads all of it
                    continue
                if group_of[key] >= 0:
                    repeated.add(key)  # an earlier group reads some of it
                group_of[key], reached[key] = group, start
            begin = reached[key]
            until = stop if stop < end else end
            if max(offset, start) == begin:  # goes on where the reads before ended
                pieces.append((key, begin, group, read, until - begin))
                reached[key] = until
            else:
                repeated.add(key)  # what is read a second time could be wrong the second time
    ends = [end for _, _, end in ranges]
    sums = array("Q")
    for key, begin, group, read, length in sorted(pieces):
        if group_of[key] == group and reached[key] == ends[key] and key not in repeated:
            sums.extend((read, begin - offsets[read], length, key))
    return sums, [key for key, end in enumerate(ends) if reached[key] != end or key in repeated]


def combine(pieces: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-32C of pieces one after the other, from the CRC-32C and length in bytes of each."""
    crc = 0
    for piece, nbytes in pieces:
        crc = crc32c_combine(crc, piece, nbytes)
    return crc


def _by_source(ranges: Sequence[_Range]) -> dict[int, tuple[list[int], list[_Range]]]:
    """Return starts, and (start, end, key), of the ranges of each source that have bytes, in the file's order."""
    members: dict[int, list[_Range]] = {}
    for key, (source, start, end) in enumerate(ranges):
        if start > end:
            raise ValueError(f"expected start <= end, got the range {start} to {end} of source {source}")
        if start != end:
            members.setdefault(source, []).append((start, end, key))
    for source, held in members.items():
        held.sort()
        last = 0
        for start, end, _ in held:
            if start < last:
                raise ValueError(f"two ranges of source {source} overlap at byte {start}")
            last = end
    return {source: ([start for start, _, _ in held], held) for source, held in members.items()}
