"""Choose lengths of prompts, from transfer-bound to compute-bound.

Part of `bench._overlap`; needs torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ._passes import resident_pass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ..._models import Subject
    from ._place import Place

__all__ = ["prompts_that_take"]

_FIRST_TOKENS = 16


def prompts_that_take(wanted: Sequence[float], subject: Subject, place: Place, module: nn.Module) -> list[int]:
    """Find prompts whose pass takes about so long with everything resident, each longer than the one before.

    Args:
        wanted: Seconds, ascending.
        subject: What computes.
        place: Where.
        module: The same, resident.
    """

    points: list[tuple[float, int]] = []
    tokens = _FIRST_TOKENS
    while not points or (points[-1][0] < wanted[-1] and points[-1][1] < subject.most_tokens):
        asked = replace(subject, tokens=min(tokens, subject.most_tokens))
        passes = 2 if len(points) < 2 else 1  # the first are short, and what is touched for the first time is slow
        points.append((min(resident_pass(asked, place, module).seconds for _ in range(passes)), asked.tokens))
        tokens *= 2
    found: list[int] = []
    for target in wanted:
        tokens = max(1, min(_between(points, target), subject.most_tokens))
        found.append(max(tokens, found[-1] + 1 if found else 1))
    return found


def _between(points: Sequence[tuple[float, int]], seconds: float) -> int:
    """Return the tokens that take so long, by a line between the two points around it, or from nothing to the first."""
    low = max((point for point in points if point[0] <= seconds), default=(0.0, 0))
    high = min((point for point in points if point[0] > seconds and point[1] > low[1]), default=None)
    if high is None:
        return low[1]
    return round(low[1] + (seconds - low[0]) / (high[0] - low[0]) * (high[1] - low[1]))
