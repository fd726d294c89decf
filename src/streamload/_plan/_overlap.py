"""Find two blocks of memory that meet, without taking rows apart where it can be helped.

Part of `_plan`; pure. Columns of one parameter interleave: their rows lie between each other's, and yet no byte is in
two of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Block = tuple[int, int, int, int]  # address, bytes of a row, rows, bytes from row to row

_Span = tuple[int, int, int]  # first byte, end, which block
_Rectangle = tuple[int, int, int, int, int]  # first row, row behind the last, first column, column behind, which block


def find_overlap(blocks: Sequence[Block]) -> tuple[int, int, int] | None:
    """Return an address that two blocks hold, and their positions, the one that begins before the other first.

    The rows of one block must not overlap. None: no two blocks meet.
    """
    spans = sorted(
        [
            (address, address + nbytes + (rows - 1) * pitch, index)
            for index, (address, nbytes, rows, pitch) in enumerate(blocks)
        ]
    )
    reach = begin = 0
    for position, (start, end, _) in enumerate(spans):
        if start >= reach:
            if position - begin > 1:
                met = _find_among(blocks, spans[begin:position])
                if met is not None:
                    return met
            begin = position
        if end > reach:
            reach = end
    return _find_among(blocks, spans[begin:]) if len(spans) - begin > 1 else None


def _find_among(blocks: Sequence[Block], spans: Sequence[_Span]) -> tuple[int, int, int] | None:
    """Find two that meet among blocks whose spans hang together."""
    pitches = {blocks[index][3] for _, _, index in spans if blocks[index][2] > 1}
    if len(pitches) == 1:
        return _find_folded(blocks, spans, pitches.pop())
    rows = sorted(
        [
            (address + row * pitch, address + row * pitch + nbytes, index)
            for address, nbytes, count, pitch, index in [(*blocks[index], index) for _, _, index in spans]
            for row in range(count)
        ]
    )
    reach, holder = 0, -1
    for start, end, index in rows:
        if start < reach:
            return start, holder, index
        reach, holder = end, index
    return None


def _find_folded(blocks: Sequence[Block], spans: Sequence[_Span], pitch: int) -> tuple[int, int, int] | None:
    """Find two that meet where all rows have one pitch: memory folded to that width, and blocks to rectangles.

    Sweeps over the rows and holds what stands in the present one, by column.
    """
    base = spans[0][0]
    rectangles = [shape for _, _, index in spans for shape in _fold(blocks[index], base, pitch, index)]
    edges = sorted(
        [(top, 1, left, right, index) for top, _, left, right, index in rectangles]
        + [(bottom, 0, left, right, index) for _, bottom, left, right, index in rectangles]
    )
    standing: list[tuple[int, int, int]] = []  # left, right, block
    for row, begins, left, right, index in edges:
        at = bisect_left(standing, (left, right, index))
        if not begins:
            del standing[at]
            continue
        if at > 0 and standing[at - 1][1] > left:
            return base + row * pitch + left, standing[at - 1][2], index
        if at < len(standing) and standing[at][0] < right:
            return base + row * pitch + standing[at][0], index, standing[at][2]
        insort(standing, (left, right, index))
    return None


def _fold(block: Block, base: int, width: int, index: int) -> Iterator[_Rectangle]:
    address, nbytes, rows, _ = block
    top, left = divmod(address - base, width)
    if rows == 1:
        head = min(nbytes, width - left)
        whole, tail = divmod(nbytes - head, width)
        yield top, top + 1, left, left + head, index
        if whole:
            yield top + 1, top + 1 + whole, 0, width, index
        if tail:
            yield top + 1 + whole, top + 2 + whole, 0, tail, index
        return
    yield top, top + rows, left, min(left + nbytes, width), index
    if left + nbytes > width:
        yield top + 1, top + 1 + rows, 0, left + nbytes - width, index
