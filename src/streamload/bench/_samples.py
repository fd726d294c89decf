"""The samples of one figure: how far they lie apart, and whether others say the same.

Floor 6; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SampledFigure", "medians_agree", "spread_of"]

_LEAST_DIFFERENCE = 0.01


@dataclass(frozen=True, slots=True)
class SampledFigure:
    """Name something that was measured several times.

    Attributes:
        name: What it is, the same in every result of its kind.
        samples: One of each round or pair; empty where it did not run.
        unit: Of the samples: "s", "s/GB" (seconds for 10^9 bytes), "B", or "" for a ratio.
    """

    name: str
    samples: tuple[float, ...]
    unit: str


def spread_of(samples: Sequence[float]) -> float:
    """Return the greatest less the least, as a part of the median."""
    return _width(samples) / median(samples)


def medians_agree(left: Sequence[float], right: Sequence[float]) -> bool:
    """Say whether both are the same as far as these samples can tell.

    The medians differ by no more than the larger of the two widths from least to greatest, which is what a spread is a
    part of: of two runs of the same, each with the other's median within its width, it is always true. Spreads are
    shown in whole percent, so a difference below one is none.
    """
    first, second = median(left), median(right)
    return abs(first - second) <= max(_width(left), _width(right), _LEAST_DIFFERENCE * max(first, second))


def _width(samples: Sequence[float]) -> float:
    return max(samples) - min(samples)
