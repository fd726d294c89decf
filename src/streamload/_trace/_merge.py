"""Make a long trace short.

Part of `_trace`; pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._spans import Span

__all__ = ["at_most"]


def at_most(spans: Sequence[Span], most: int) -> list[Span]:
    """Merge spans until there are at most so many; bytes add up to the same, and no span crosses another's border.

    Two are merged that follow each other on one thread of one lane and are for one layer. Those with the least time
    between them go first, and that time then counts as work. Layers stay apart: where each stretch of a layer on a
    thread has become one span, more than `most` may be left.

    Args:
        spans: By their start. Those of one thread of one lane do not overlap.
        most: How many may be left.
    """
    gaps: list[tuple[float, int]] = []  # before which span
    before: dict[tuple[str, int], int] = {}  # the last span of each thread of a lane
    neighbour: dict[int, int] = {}
    for number, span in enumerate(spans):
        last = before.get((span.lane, span.thread))
        if last is not None and spans[last].layer == span.layer:
            gaps.append((span.start - spans[last].end, number))
            neighbour[number] = last
        before[span.lane, span.thread] = number
    merged = {number for _, number in sorted(gaps)[: max(len(spans) - most, 0)]}
    found: dict[int, Span] = {}
    into: dict[int, int] = {}
    for number, span in enumerate(spans):
        if number not in merged:
            found[number] = span
            continue
        first = neighbour[number]
        first = into[number] = into.get(first, first)
        whole = found[first]
        found[first] = replace(whole, end=max(whole.end, span.end), nbytes=whole.nbytes + span.nbytes)
    return list(found.values())
