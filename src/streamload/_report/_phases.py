"""Phases of a start, where they were on the clock.

Part of `_report`; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._chart import Chart, Table
from ._rows import cell, places, rows_spec
from ._say import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Stretch", "phase_chart"]

_LEAST_VISIBLE: Final = 0.003  # of the axis: shorter stretches are drawn this long
_TIPS: Final = {
    "name": "phase",
    "detail": "what",
    "starts": "began at",
    "lasted": "took",
    "words": "of this name in all",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Hold one stretch of time: from, to, and what it was."""

    start: float
    end: float
    words: str


def phase_chart(title: str, note: str, phases: Mapping[str, Sequence[Stretch]]) -> Chart:
    """Return phases as a chart.

    Args:
        title: What it shows.
        note: How to read it.
        phases: The stretches of each, in seconds.
    """
    tops, headings, height = places([""] * len(phases))
    least = _LEAST_VISIBLE * max([each.end for stretches in phases.values() for each in stretches], default=0.0)
    totals = {name: sum([each.end - each.start for each in stretches]) for name, stretches in phases.items()}
    data = [
        {
            **cell(name, "streamload", top, (each.start, max(each.end, each.start + least)), say(totals[name], "s")),
            "start": each.start,
            "end": each.end,
            "detail": each.words,
            "lasted": say(each.end - each.start, "s"),
            "starts": say(each.start, "s"),
        }
        for (name, stretches), top in zip(phases.items(), tops, strict=True)
        for each in stretches
    ]
    spec = rows_spec(title, data, headings, height, unit="s", roles={}, more=(), tips=_TIPS)
    layers: list[dict[str, dict[str, object]]] = spec["layer"]  # type: ignore[assignment]  # it is that
    layers[-1]["encoding"] |= {"x": {"field": "from", "type": "quantitative"}, "x2": {"field": "to"}}
    rows = [(name, say(totals[name], "s"), say(each[0].start, "s")) for name, each in phases.items() if each]
    return Chart(title=title, note=note, spec=spec, table=Table(("phase", "took", "began at"), tuple(rows)), wide=True)
