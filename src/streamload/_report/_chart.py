"""What a page is made of: sections with verdicts, charts and tables.

Part of `_report`; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._theme import FONT, token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._result import Result

__all__ = ["Chart", "Section", "Table", "Verdict", "base_spec", "legend", "rows_of", "within"]

SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, which nothing fetches


@dataclass(frozen=True, slots=True)
class Table:
    """Hold rows of text under a head; the first column names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Hold one chart, and the same values as a table.

    Attributes:
        title: What it shows.
        note: How to read it, in a sentence.
        spec: Vega-Lite, without a width.
        table: Its values.
        wide: Whether it wants the page's whole width.
    """

    title: str
    note: str
    spec: Mapping[str, object]
    table: Table
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold a figure that answers the question, what it is of, and a word on it."""

    figure: str
    words: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Hold what a page shows of one result.

    Attributes:
        result: It.
        title: What was measured.
        subject: On what, in a line.
        facts: Where and how, by name.
        verdicts: What follows.
        notes: What a reader must know before the figures.
        charts: To look at.
        tables: What is not drawn, by heading.
    """

    result: Result
    title: str
    subject: str
    facts: tuple[tuple[str, str], ...]
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()


def rows_of(*rows: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return rows of which not every cell but the first is empty."""
    return tuple([row for row in rows if any(cell not in ("", "–") for cell in row[1:])])


def legend(domain: Mapping[str, str]) -> dict[str, object]:
    """Return the scale and legend of a colour by what it stands for: words to colours of the theme."""
    return {
        "type": "nominal",
        "scale": {"domain": list(domain), "range": [token(name) for name in domain.values()]},
        "legend": {"orient": "top", "title": None, "symbolType": "square", "symbolStrokeWidth": 0, "symbolOpacity": 1},
    }


def within(part: float, more: float) -> dict[str, str]:
    """Return how long a text may be: a part of the chart's width, and some pixels more."""
    return {"expr": f"{part:g} * width + {more:g}"}


def base_spec(description: str) -> dict[str, object]:
    """Return what every chart begins with: its look, and what a screen reader says of it."""
    return {
        "$schema": SCHEMA,
        "description": description,
        "config": {
            "background": "transparent",
            "font": FONT,
            "view": {"stroke": None},
            "text": {"color": token("ink"), "fontSize": 12},
            "axis": {
                "domain": False,
                "ticks": False,
                "gridColor": token("line"),
                "labelColor": token("quiet"),
                "labelFontSize": 11,
                "labelPadding": 6,
                "titleColor": token("quiet"),
                "titleFontSize": 11,
                "titleFontWeight": "normal",
            },
            "legend": {
                "labelColor": token("ink"),
                "labelFontSize": 12,
                "symbolSize": 90,
                "padding": 0,
                "offset": 10,
                "columnPadding": 16,
            },
            "title": {
                "anchor": "start",
                "color": token("ink"),
                "fontSize": 15,
                "fontWeight": 600,
                "subtitleColor": token("quiet"),
                "subtitleFontSize": 12,
                "offset": 14,
            },
        },
    }
