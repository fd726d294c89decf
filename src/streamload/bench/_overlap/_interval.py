"""Say how sure a median is.

Part of `bench._overlap`; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CONFIDENCE", "Interval", "interval_of_median", "paired_ratios"]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold a median and where the true one lies.

    Attributes:
        median: Of the samples.
        low: The true median is not below.
        high: The true median is not above.
        confidence: With this probability.
    """

    median: float
    low: float
    high: float
    confidence: float

    def within(self, margin: float) -> bool:
        """Whether a ratio is 1 to within a margin, surely enough: all of the interval lies that close."""
        return self.confidence >= CONFIDENCE and 1 - margin <= self.low and self.high <= 1 + margin


def interval_of_median(samples: Sequence[float]) -> Interval:
    """Return the narrowest interval between two samples that holds the median with 0.95, whatever their distribution.

    By the sign test: each sample lies above the true median as a coin falls. Six samples are the fewest that give
    0.95; fewer give the interval from the least to the greatest, and what confidence that has.

    Raises:
        ValueError: There are no samples.
    """
    if not samples:
        raise ValueError("there is no median of no samples")
    ordered = sorted(samples)
    cut = 0
    while cut + 1 < (len(ordered) + 1) // 2 and _covered(len(ordered), cut + 1) >= CONFIDENCE:
        cut += 1
    return Interval(median(ordered), ordered[cut], ordered[-1 - cut], _covered(len(ordered), cut))


def _covered(count: int, cut: int) -> float:
    """Return how surely the median lies between the samples that are `cut` from either end of `count`."""
    outside: float = sum(comb(count, k) for k in range(cut + 1)) / 2.0**count
    return max(0.0, 1 - 2 * outside)


def paired_ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide each sample by the one taken beside it."""
    return [top / bottom for top, bottom in zip(over, under, strict=True)]
