"""Rows with a name above a bar, and groups of them under headings: what bars and phases are drawn on.

Part of `_report`; pure. Names stand above their bars, so that a long one costs no width on a phone. Positions are
computed here, in rows from the top; the chart only draws them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._chart import base_spec, legend, within
from ._theme import token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["cell", "places", "rows_spec", "vertical"]

_ROW, _HEAD = 38, 0.72  # pixels of a row; a heading as a part of one
_VALUE = 84  # pixels that a name leaves to the figure
_AXES: Final = {"GB/s": "GB/s", "s": "seconds", "×": "times"}


def places(groups: Sequence[str]) -> tuple[list[float], list[dict[str, object]], float]:
    """Return the top of each row, headings with theirs, and how many rows high it all is."""
    tops: list[float] = []
    headings: list[dict[str, object]] = []
    at, before = 0.0, ""
    for group in groups:
        if group != before:
            at += 0.2 if headings else 0.0
            headings.append({"text": group, "y": at + _HEAD / 2})
            at, before = at + _HEAD, group
        tops.append(at)
        at += 1
    return tops, headings, at


def cell(name: str, role: str, top: float, ends: tuple[float, float], words: str) -> dict[str, object]:
    """Return a bar of a row.

    Args:
        name: Of the row.
        role: What its colour stands for.
        top: Of the row, in rows.
        ends: Where the bar begins and ends.
        words: The row's figure.
    """
    return {
        "name": name,
        "role": role,
        "from": ends[0],
        "to": ends[1],
        "words": words,
        "top": top,
        "label": top + 0.27,
        "high": top + 0.5,
        "middle": top + 0.66,
        "low": top + 0.82,
        "bottom": top + 1,
    }


def vertical(field: str, height: float) -> dict[str, object]:
    """Return the encoding of a place in rows from the top."""
    scale = {"domain": [0, height], "reverse": True, "nice": False}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": None}


def rows_spec(
    title: str,
    data: Sequence[Mapping[str, object]],
    headings: Sequence[Mapping[str, object]],
    height: float,
    *,
    unit: str,
    roles: Mapping[str, str],
    more: Sequence[object],
    tips: Mapping[str, str],
) -> dict[str, object]:
    """Return rows as Vega-Lite.

    Args:
        title: What they show.
        data: Bars, as `cell` makes them and with what the tips name.
        headings: As `places` makes them.
        height: Of all rows.
        unit: Of the bars.
        roles: Words of the legend, to colours; none has no legend.
        more: Layers on the bars and below what feels the pointer.
        tips: What appears beside the pointer: fields to titles.
    """
    x = {"type": "quantitative", "scale": {"zero": True, "nice": False}}
    axis = {"title": _AXES.get(unit, unit), "tickCount": 5, "format": "~f"}
    bar = {
        "mark": {"type": "rect"},
        "encoding": {
            "x": {"field": "from", **x, "axis": axis},
            "x2": {"field": "to"},
            "y": vertical("high", height),
            "y2": {"field": "low"},
            "color": {"field": "role", **legend(roles)} if roles else {"value": token("streamload")},
        },
    }
    hit = {
        "name": "hit",
        "mark": {"type": "rect", "opacity": 0},
        "encoding": {
            "y": vertical("top", height),
            "y2": {"field": "bottom"},
            "tooltip": [{"field": field, "title": words} for field, words in tips.items()],
        },
    }
    return {
        **base_spec(f"{title}. The table has the same values."),
        "height": round(height * _ROW),
        "data": {"values": list(data)},
        "layer": [bar, *_texts(data, headings, height), *more, hit],
    }


def _texts(
    data: Sequence[Mapping[str, object]], headings: Sequence[Mapping[str, object]], height: float
) -> list[dict[str, object]]:
    """Return layers of names, figures and headings; a row may have several bars, but has one name."""
    rows = list({row["top"]: row for row in data}.values())
    ours = [row for row in rows if row["role"] == "streamload"]
    others = [row for row in rows if row["role"] != "streamload"]
    name = {"align": "left", "limit": within(1, -_VALUE)}
    heading = {"align": "left", "limit": within(1, 0), "fontSize": 11, "color": token("quiet")}
    return [
        {
            "data": {"values": list(values)},
            "mark": {"type": "text", "baseline": "middle", **look},
            "encoding": {"x": {"value": x}, "y": vertical(place, height), "text": {"field": field}},
        }
        for values, look, x, place, field in (
            (others, name, 0, "label", "name"),
            (ours, {**name, "fontWeight": 600}, 0, "label", "name"),
            (rows, {"align": "right", "fontWeight": 600}, "width", "label", "words"),
            (headings, heading, 0, "y", "text"),
        )
        if values
    ]
