"""How figures read in a report: one way, in charts, tables and what appears beside the pointer.

Part of `_report`; pure. Four digits, so that a figure on the page can be found in the JSON.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from .._units import say_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["say", "say_figure", "say_percent", "say_ratio", "spread"]


def say(value: float | None, unit: str) -> str:
    """Return a figure with its unit: "GB/s", "s" (below a second in ms), "bytes", "×", or any other."""
    if value is None:
        return "–"
    if unit == "bytes":
        return say_bytes(value)
    if unit == "s" and 0 < abs(value) < 1:
        return f"{say_figure(value * 1e3)} ms"
    return f"{say_figure(value)} {unit}".rstrip()


def say_figure(value: float) -> str:
    """Return a number to four digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:#.4g}".rstrip(".")


def say_ratio(value: float) -> str:
    """Return a ratio to three digits: a verdict needs no more."""
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:,.0f}"


def say_percent(part: float) -> str:
    """Return a part of one in percent."""
    return f"{part:.1%}" if part < 0.0995 else f"{part:.0%}"


def spread(values: Sequence[float]) -> float:
    """Return slowest less fastest, as a part of the median."""
    return (max(values) - min(values)) / median(values)
