"""Bars with the spread of their rounds: who reached what, against a ceiling.

Part of `_report`; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from ._chart import Chart, Table
from ._rows import cell, places, rows_spec, vertical
from ._say import say, say_percent, spread
from ._theme import token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ROLES", "Bar", "bar_chart"]

ROLES: Final = {"ceiling": "ceiling", "streamload": "streamload", "peer": "peer"}
_TIPS: Final = {"name": "who", "words": "median", "between": "rounds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Hold who reached what.

    Attributes:
        name: Who.
        role: What the colour stands for.
        value: The figure, as the JSON has it; None where there is none.
        rounds: That of each round, from which the spread follows; may be empty.
        group: Heading that it stands under, with others right before or after it.
        why: Why there is no figure.
    """

    name: str
    role: str
    value: float | None
    rounds: Sequence[float] = ()
    group: str = ""
    why: str = ""


def bar_chart(
    title: str,
    note: str,
    bars: Sequence[Bar],
    unit: str,
    *,
    roles: Mapping[str, str] = ROLES,
    rule: float | None = None,
) -> Chart:
    """Return bars as a chart.

    Args:
        title: What it shows.
        note: How to read it.
        bars: In their order from the top; those without a value are in the table only.
        unit: Of the values; see `say`.
        roles: Words of the legend, to colours.
        rule: A value to mark at every bar, such as the ceiling; None marks none.
    """
    drawn = [bar for bar in bars if bar.value is not None]
    used = {role: colour for role, colour in roles.items() if any(bar.role == role for bar in drawn)}
    tops, headings, height = places([bar.group for bar in drawn])
    data = [_datum(bar, top, unit) for bar, top in zip(drawn, tops, strict=True)]
    rounds = [
        {"x": value, "y": row["middle"]}
        for bar, row in zip(drawn, data, strict=True)
        if len(bar.rounds) > 1
        for value in bar.rounds
    ]
    more = [
        *(_whiskers(data, rounds, height) if rounds else []),
        *([] if rule is None else [_marks(rule, tops, height)]),
    ]
    spec = rows_spec(title, data, headings, height, unit=unit, roles=used, more=more, tips=_TIPS)
    return Chart(title=title, note=note, spec=spec, table=_table(bars, unit))


def _datum(bar: Bar, top: float, unit: str) -> dict[str, object]:
    value = bar.value or 0.0
    several = len(bar.rounds) > 1
    ends = (min(bar.rounds), max(bar.rounds)) if several else (None, None)
    return {
        **cell(bar.name, bar.role, top, (0, value), say(bar.value, unit)),
        "group": bar.group,
        "least": ends[0],
        "greatest": ends[1],
        "between": f"{say(ends[0], unit)} to {say(ends[1], unit)}" if several else "one round",
        "rounds": len(bar.rounds),
    }


def _whiskers(
    data: Sequence[Mapping[str, object]], rounds: Sequence[Mapping[str, object]], height: float
) -> list[object]:
    """Return layers that draw each round, and a line from the least to the greatest."""
    return [
        {
            "data": {"values": [row for row in data if row["least"] is not None]},
            "mark": {"type": "rule", "color": token("ink"), "strokeWidth": 1.25},
            "encoding": {
                "x": {"field": "least", "type": "quantitative"},
                "x2": {"field": "greatest"},
                "y": vertical("middle", height),
            },
        },
        {
            "data": {"values": list(rounds)},
            "mark": {"type": "tick", "color": token("ink"), "thickness": 1.25, "size": 6, "orient": "vertical"},
            "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": vertical("y", height)},
        },
    ]


def _marks(value: float, tops: Sequence[float], height: float) -> dict[str, object]:
    """Return a layer that marks a value at every bar, and leaves the names alone."""
    return {
        "name": "mark",
        "data": {"values": [{"x": value, "high": top + 0.44, "low": top + 0.88} for top in tops]},
        "mark": {"type": "rule", "color": token("mark"), "strokeWidth": 2},
        "encoding": {
            "x": {"field": "x", "type": "quantitative"},
            "y": vertical("high", height),
            "y2": {"field": "low"},
        },
    }


def _table(bars: Sequence[Bar], unit: str) -> Table:
    rows = []
    for bar in bars:
        name = f"{bar.group}: {bar.name}" if bar.group else bar.name
        if bar.value is None:
            rows.append((name, bar.role, bar.why or "–", "", ""))
            continue
        several = len(bar.rounds) > 1
        between = f"{say(min(bar.rounds), unit)} to {say(max(bar.rounds), unit)}" if several else "–"
        width = say_percent(spread(bar.rounds)) if several and median(bar.rounds) else "–"
        rows.append((name, bar.role, say(bar.value, unit), between, width))
    return Table(("who", "is", "median", "rounds", "spread"), tuple(rows))
