"""Show a cold start as text.

Part of `_coldstart`; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._units import say_bytes, say_count, say_rate, say_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._report import ColdStartReport, LoadReport

__all__ = ["columns", "report_table"]

_MOST_LAYERS: Final = 12  # shown one by one; of more, the first and last ones
_MOST_DETAILS: Final = 3  # of what is measured in many pieces, the longest


def report_table(report: ColdStartReport) -> str:
    """Return phases, moments and loads."""
    total = report.seconds
    rows = [
        [name, say_seconds(seconds), f"{seconds / total:.0%}" if total else "", _details(report, name)]
        for name, seconds in report.totals().items()
    ]
    wall = "" if report.wall_seconds is None else f"of {say_seconds(report.wall_seconds)} wall time"
    rows.append(["sum", say_seconds(total), "100%" if total else "", wall])
    parts = [columns(["phase", "took", "share", ""], rows, right=(1, 2))]
    reached = [[name, say_seconds(at)] for name, at in report.reached.items()]
    parts.append(columns(["reached", "after"], reached, right=(1,)))
    parts += [_load(load) for load in report.loads]
    return "\n\n".join(parts)


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int]) -> str:
    """Return rows under their heads, columns aligned; those named by `right` to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _details(report: ColdStartReport, name: str) -> str:
    """Return what of a phase took longest, where that is known by name."""
    found: dict[str, float] = {}
    for phase in report.phases:
        if phase.name == name and phase.detail:
            found[phase.detail] = found.get(phase.detail, 0.0) + phase.seconds
    longest = sorted(found, key=lambda detail: -found[detail])[:_MOST_DETAILS]
    return ", ".join(f"{detail} {say_seconds(found[detail])}" for detail in longest)


def _load(load: LoadReport) -> str:
    stats = load.stats
    lines = [
        f"load of {load.name}: {say_bytes(stats.bytes_resident)} of {say_bytes(stats.bytes_total)} in "
        f"{say_seconds(stats.seconds)}, {say_rate(load.bytes_per_second)}",
        f"  computing waited {say_seconds(stats.stall_seconds)}, {say_bytes(load.cache_hit_bytes)} came from caches, "
        f"{say_count(stats.requests, 'request')}, {stats.retries} of them repeated",
    ]
    layers = [[name, say_seconds(at)] for name, at in load.layers.items()]
    if len(layers) > _MOST_LAYERS:
        half = _MOST_LAYERS // 2
        layers = [*layers[:half], [f"({len(layers) - 2 * half} more)", ""], *layers[-half:]]
    if layers:
        lines.append(columns(["  layer resident", "after"], [["  " + name, at] for name, at in layers], right=(1,)))
    return "\n".join(lines)
