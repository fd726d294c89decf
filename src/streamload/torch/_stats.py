"""Add up what several tickets did.

Floor 4, part of `torch`; pure.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from .._engine import LoadStats

if TYPE_CHECKING:
    from collections.abc import Sequence


def add_up(stats: Sequence[LoadStats]) -> LoadStats:
    """Add the numbers of several tickets; what is a moment or a level is the first one's or the highest."""
    sums = {field.name: sum([getattr(one, field.name) for one in stats]) for field in fields(LoadStats)}
    for name in sums:
        if name.startswith("first_"):
            sums[name] = getattr(stats[0], name) if stats else 0.0
        elif name in ("pinned_bytes", "staging_bytes"):
            sums[name] = max([getattr(one, name) for one in stats], default=0)
    return LoadStats(**sums)
