"""Read copies of many rows: through short gaps together, over long ones apart.

Part of `_plan`; pure. A plain range that lies among rows is handled as one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

READ_THROUGH = 4096
"""Widest gap between rows that is read rather than left out: the page cache and drives serve whole pages of this
size, so that a narrower gap costs no more than the read it saves."""

MOST_TOGETHER = 128
"""Most copies in a run of rows. Each leaves a read at most three pieces, which stays below `MAX_COPIES`."""

Rows = tuple[int, int, int, int, int, int, int]  # shard, start, end (of a row), address, rows, file pitch, pitch


def split_rows(copy: Rows, ranges: list[tuple[int, int, int, int]], rows: list[Rows]) -> None:
    """Append a copy to `rows`, or as plain ranges to `ranges` where rows have no use for each other."""
    shard, start, end, address, count, file_pitch, pitch = copy
    nbytes = end - start
    if file_pitch == pitch == nbytes:
        ranges.append((shard, start, start + count * nbytes, address))
    elif file_pitch - nbytes > READ_THROUGH:
        ranges += [
            (shard, start + row * file_pitch, end + row * file_pitch, address + row * pitch) for row in range(count)
        ]
    else:
        rows.append(copy)


def gather_rows(
    ranges: Iterable[tuple[int, int, int, int]], rows: Iterable[Rows], runs: list[list[Rows]]
) -> list[tuple[int, int, int, int]]:
    """Append runs of rows that are read together, and return the ranges that are read by themselves; both in order.

    A run has no gap above `READ_THROUGH` and at most `MOST_TOGETHER` copies. Ranges in it, or that near to it, are
    of it.
    """
    pieces = sorted([*rows, *[(*piece, 1, piece[2] - piece[1], 0) for piece in ranges]])
    apart: list[tuple[int, int, int, int]] = []
    run: list[Rows] = []
    spread = False  # whether the run has rows
    reach = 0  # end of the run in the file
    for piece in pieces:
        shard, start, end, _, count, file_pitch, _ = piece
        near = start <= reach + READ_THROUGH if spread or count > 1 else False
        if run and (shard != run[0][0] or not near or len(run) == MOST_TOGETHER):
            _put(run, spread, apart, runs)
            run, spread, reach = [], False, 0
        run.append(piece)
        spread |= count > 1
        reach = max(reach, end + (count - 1) * file_pitch)
    if run:
        _put(run, spread, apart, runs)
    return apart


def _put(run: list[Rows], spread: bool, apart: list[tuple[int, int, int, int]], runs: list[list[Rows]]) -> None:
    if spread:
        runs.append(run)
    else:
        apart += [piece[:4] for piece in run]


def cut_rows(
    run: Sequence[Rows], group: int, chunk_bytes: int, alignment: int, reads: list[int], copies: list[int]
) -> None:
    """Append the reads of a run of rows, and the copies out of each.

    A read begins and ends at wanted bytes. It is cut where a row begins, or inside a row that is larger than a chunk.
    """
    shard, begin = run[0][:2]
    run_end = max([_reach(piece) for piece in run])
    low = 0  # the pieces before are done
    while begin < run_end:
        lead = begin % alignment if chunk_bytes > alignment else 0  # as for plain ranges
        end = min(begin - lead + chunk_bytes, run_end)
        while _reach(run[low]) <= begin:
            low += 1
        high = low + 1
        while high < len(run) and run[high][1] < end:
            high += 1
        if end < run_end:
            end = _find_cut(run[low:high], begin, end, alignment)
        read_end = begin
        reads += (shard, begin, 0, group, len(copies) // 6)
        for piece in run[low:high]:
            for start, address, nbytes, rows, file_pitch, pitch in _inside(piece, begin, end):
                copies += (start - begin, address, nbytes, rows, file_pitch, pitch)
                read_end = max(read_end, start + nbytes + (rows - 1) * file_pitch)
        reads[-3] = read_end - begin
        begin = min([_next_byte(piece, end) for piece in run[low : high + 1]], default=run_end)


def _reach(piece: Rows) -> int:
    _, _, end, _, rows, file_pitch, _ = piece
    return end + (rows - 1) * file_pitch


def _find_cut(run: Sequence[Rows], begin: int, end: int, alignment: int) -> int:
    """Return the last place up to `end` where a row begins, else one that is aligned, else `end`."""
    cut = begin
    for _, start, _, _, rows, file_pitch, _ in run:
        if start <= end:
            cut = max(cut, start + min((end - start) // file_pitch, rows - 1) * file_pitch)
    if cut > begin:
        return cut
    aligned = end - end % alignment
    return aligned if aligned > begin else end


def _inside(piece: Rows, begin: int, end: int) -> list[tuple[int, int, int, int, int, int]]:
    """Return what of a copy lies in `[begin, end)`: start, address, bytes, rows, pitches; at most three pieces."""
    _, start, row_end, address, rows, file_pitch, pitch = piece
    nbytes = row_end - start
    row = max(0, (begin - row_end) // file_pitch + 1)  # the first that ends behind `begin`
    stop = min(rows, -((start - end) // file_pitch))  # the first that begins at or behind `end`
    found = []
    if row < stop and start + row * file_pitch < begin:
        first = start + row * file_pitch
        found.append((begin, address + row * pitch + begin - first, min(first + nbytes, end) - begin, 1, 0, 0))
        row += 1
    cut = row < stop and row_end + (stop - 1) * file_pitch > end
    whole = stop - row - cut
    if whole == 1:
        found.append((start + row * file_pitch, address + row * pitch, nbytes, 1, 0, 0))
    elif whole > 1:
        found.append((start + row * file_pitch, address + row * pitch, nbytes, whole, file_pitch, pitch))
    if cut:
        first = start + (stop - 1) * file_pitch
        found.append((first, address + (stop - 1) * pitch, end - first, 1, 0, 0))
    return found


def _next_byte(piece: Rows, after: int) -> int:
    """Return the first wanted byte at or behind an offset; beyond every file where there is none."""
    _, start, row_end, _, rows, file_pitch, _ = piece
    row = max(0, (after - row_end) // file_pitch + 1)
    return max(after, start + row * file_pitch) if row < rows else 1 << 64
