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

_FIRST_GUESSES = (16, 128)
_CORRECTIONS = 2


def prompts_that_take(wanted: Sequence[float], subject: Subject, place: Place, module: nn.Module) -> list[int]:
    """Find prompts whose pass takes about so long with everything resident, each longer than the one before.

    Args:
        wanted: Seconds, ascending.
        subject: What computes.
        place: Where.
        module: The same, resident.
    """

    def seconds(tokens: int) -> float:
        return min(resident_pass(replace(subject, tokens=tokens), place, module).seconds for _ in range(2))

    def within(tokens: float) -> int:
        return max(1, min(round(tokens), subject.most_tokens))

    short, long = (within(guess) for guess in _FIRST_GUESSES)
    first, second = seconds(short), seconds(long)
    each = max(second - first, 1e-9) / max(long - short, 1)
    found: list[int] = []
    for target in wanted:
        tokens = within(short + (target - first) / each)
        for _ in range(_CORRECTIONS):
            took = seconds(tokens)
            if abs(took / target - 1) < 0.05:  # near enough: what counts is what is measured
                break
            tokens = within(tokens + (target - took) / each)
        found.append(max(tokens, found[-1] + 1 if found else 1))
    return found
