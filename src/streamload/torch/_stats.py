"""Add up what several tickets did.

Floor 4, part of `torch`; pure.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from .._engine import LoadStats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def add_up(stats: Sequence[LoadStats]) -> LoadStats:
    """Add the numbers of several tickets; what is a moment or a level is the first one's or the highest."""
    sums = {field.name: sum([getattr(one, field.name) for one in stats]) for field in fields(LoadStats)}
    for name in sums:
        if name.startswith("first_"):
            sums[name] = getattr(stats[0], name) if stats else 0.0
        elif name in ("pinned_bytes", "staging_bytes"):
            sums[name] = max([getattr(one, name) for one in stats], default=0)
    return LoadStats(**sums)


def at_once(stats: Sequence[LoadStats]) -> LoadStats:
    """Add the numbers of loads that began together and run beside each other: of times, the first or the last one's."""

    def first(moments: Iterable[float]) -> float:
        return min([moment for moment in moments if moment], default=0.0)

    return replace(
        add_up(stats),
        seconds=max([one.seconds for one in stats], default=0.0),
        first_byte_seconds=first(one.first_byte_seconds for one in stats),
        first_group_seconds=first(one.first_group_seconds for one in stats),
    )
