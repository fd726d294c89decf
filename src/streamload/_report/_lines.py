"""Rates by the size of a request: one line for each way to make it.

Part of `_report`; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._units import say_bytes
from ._bars import ROLES
from ._chart import Chart, Table, base_spec, legend
from ._say import say, say_percent
from ._theme import token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._result import JsonObject

__all__ = ["line_chart"]

_HEIGHT: Final = 260


def line_chart(title: str, note: str, figures: Sequence[JsonObject]) -> Chart:
    """Return figures, as a result's JSON holds them, as lines over the size of a request."""
    ran = [figure for figure in figures if figure["gigabytes_per_second"] is not None]
    data = [_datum(figure) for figure in sorted(ran, key=lambda figure: figure["request_bytes"])]
    rows = [
        (
            row["name"],
            figure["score"]["role"],
            say_bytes(figure["request_bytes"]),
            say(figure["gigabytes_per_second"], "GB/s")
            if figure["gigabytes_per_second"] is not None
            else figure["score"].get("wrong") or figure["score"]["cannot_run"] or "–",
            "–" if figure["spread"] is None else say_percent(figure["spread"]),
        )
        for figure in figures
        for row in [figure["score"]]
    ]
    return Chart(
        title=title,
        note=note,
        spec=_spec(title, data),
        table=Table(("who", "is", "of each", "median", "spread"), tuple(rows)),
    )


def _spec(title: str, data: Sequence[JsonObject]) -> dict[str, object]:
    last = {(row["way"], row["role"]): row for row in data}
    x = {
        "field": "request_bytes",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "nice": False, "padding": 12},
        "axis": {"title": "bytes of a copy", "tickCount": 6, "format": ".2s", "labelOverlap": True, "grid": False},
    }
    y = {
        "field": "rate",
        "type": "quantitative",
        "scale": {"zero": True},
        "axis": {"title": None, "tickCount": 5, "format": "~f", "labelExpr": "datum.label + ' GB/s'"},
    }
    roles = {role: colour for role, colour in ROLES.items() if any(row["role"] == role for row in data)}
    colour = {"field": "role", **legend(roles)}
    tips = [
        {"field": "name", "title": "who"},
        {"field": "words", "title": "median"},
        {"field": "size", "title": "of each"},
        {"field": "width", "title": "spread"},
    ]
    return {
        **base_spec(f"{title}. The table has the same values."),
        "height": _HEIGHT,
        "data": {"values": list(data)},
        "encoding": {"x": x, "y": y, "color": colour},
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"detail": {"field": "way"}}},
            {
                "name": "hit",
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 90,
                    "opacity": 1,
                    "stroke": token("paper"),
                    "strokeWidth": 1,
                },
                "encoding": {"tooltip": tips},
            },
            {
                "data": {"values": list(last.values())},
                "mark": {"type": "text", "align": "right", "dy": -12, "fontSize": 11, "limit": 150},
                "encoding": {"text": {"field": "way"}, "color": {"value": token("ink")}},
            },
        ],
    }


def _datum(figure: JsonObject) -> dict[str, Any]:
    name = str(figure["score"]["name"])
    return {
        "name": name,
        "way": name.partition(",")[0],
        "role": figure["score"]["role"],
        "request_bytes": figure["request_bytes"],
        "rate": figure["gigabytes_per_second"],
        "words": say(figure["gigabytes_per_second"], "GB/s"),
        "size": say_bytes(figure["request_bytes"]),
        "width": "–" if figure["spread"] is None else say_percent(figure["spread"]),
    }
