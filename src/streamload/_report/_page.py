"""One HTML file with everything in it.

Part of `_report`. The style and the script beside this file, the charts' library, the charts and the results are put
into the page; it asks the network for nothing, and its content security policy forbids it to. Whatever came from a
result is escaped, and a script that got in all the same would not run: only those with a known hash do.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ._theme import DARK, FONT, LIGHT, css_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._chart import Chart, Section, Table, Verdict

__all__ = ["page"]

_LONG: Final = 28  # characters: a longer cell is wrapped
_HERE: Final = Path(__file__).parent


def page(sections: Sequence[Section], *, library: str, made: str) -> str:
    """Return the page.

    Args:
        sections: What it shows.
        library: JavaScript that makes `vegaEmbed` known.
        made: When and by what, in a line.
    """
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    style = (
        f":root{{{css_variables(LIGHT)}--font:{FONT};color-scheme:light dark}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{css_variables(DARK)}}}}}"
        + (_HERE / "page.css").read_text(encoding="utf-8")
    )
    charts = {
        f"chart-{number}-{place}": _fluid(chart)
        for number, section in enumerate(sections)
        for place, chart in enumerate(section.charts)
    }
    results = [{"name": section.result.name, "text": section.result.text} for section in sections]
    title = sections[0].title if len(sections) == 1 else "What was measured"
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {_hash(library)} {_hash(script)}"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        '<link rel="icon" href="data:,">',
        f"<title>{_text(title)} – streamload</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        '<header class="page"><p class="brand">streamload</p>',
        f"<h1>{_text(title)}</h1>" if len(sections) > 1 else "",
        *_contents(sections),
        "</header>",
        "<main>",
        *[line for number, section in enumerate(sections) for line in _section(section, number, len(sections) == 1)],
        "</main>",
        f'<footer class="page"><p>{_text(made)}. This file loads nothing from anywhere.</p></footer>',
        f'<script type="application/json" id="charts">{_json(charts)}</script>',
        f'<script type="application/json" id="results">{_json(results)}</script>',
        f"<script>{library}</script>",
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join([part for part in parts if part]) + "\n"


def _fluid(chart: Chart) -> dict[str, object]:
    """Return a chart that takes the width there is."""
    return {
        **chart.spec,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 0, "right": 8, "top": 2, "bottom": 2},
    }


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    if len(sections) > 1:
        yield '<nav aria-label="Results"><ul>'
        for number, section in enumerate(sections):
            link = f'<a href="#result-{number}">{_text(section.title)}</a>'
            yield f"<li>{link} <span>{_text(section.result.name)}</span></li>"
        yield "</ul></nav>"


def _section(section: Section, number: int, alone: bool) -> Iterator[str]:
    level = "h1" if alone else "h2"
    yield f'<section class="result" id="result-{number}">'
    yield f'<div class="head"><div><{level}>{_text(section.title)}</{level}>'
    yield f'<p class="subject">{_text(section.subject)}</p></div>'
    yield f'<p class="file"><button type="button" data-result="{number}" hidden>Download the data</button>'
    yield f"<span>{_text(section.result.name)}</span></p></div>"
    for note in section.notes:
        yield f'<p class="notice">{_text(note)}</p>'
    if section.verdicts:
        yield '<dl class="verdicts">'
        yield from (_verdict(verdict) for verdict in section.verdicts)
        yield "</dl>"
    if section.charts:
        yield '<div class="charts">'
        last = _left_over(section.charts)
        for place, chart in enumerate(section.charts):
            yield from _chart(chart, f"chart-{number}-{place}", "alone" if place == last else "")
        yield "</div>"
    for heading, table in section.tables:
        yield from _details(heading, table, "table")
    yield '<details class="facts"><summary>Where and how it was measured</summary><dl>'
    for name, value in section.facts:
        yield f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
    yield "</dl></details>"
    yield "</section>"


def _verdict(verdict: Verdict) -> str:
    detail = f'<dd class="detail">{_text(verdict.detail)}</dd>' if verdict.detail else ""
    return f"<div><dt>{_text(verdict.words)}</dt><dd>{_text(verdict.figure)}</dd>{detail}</div>"


def _left_over(charts: Sequence[Chart]) -> int | None:
    """Return the place of the narrow chart that has none beside it: its table goes there."""
    narrow = [place for place, chart in enumerate(charts) if not chart.wide]
    return narrow[-1] if len(narrow) % 2 else None


def _chart(chart: Chart, name: str, more: str) -> Iterator[str]:
    yield f'<figure class="{"wide" if chart.wide else more or "narrow"}">'
    yield f"<figcaption><h3>{_text(chart.title)}</h3><p>{_text(chart.note)}</p></figcaption>"
    yield f'<div class="drawn"><div class="chart" id="{name}"></div></div>'
    yield from _details("Values as a table", chart.table, "values")
    yield "</figure>"


def _details(heading: str, table: Table, kind: str) -> Iterator[str]:
    """Yield a table that is folded away by the script, and so open without it, and in print."""
    yield f'<details class="{kind}" open><summary>{_text(heading)}</summary><div class="scroll" tabindex="0"><table>'
    yield (
        "<thead><tr>" + "".join([f'<th scope="col">{_text(cell)}</th>' for cell in table.head]) + "</tr></thead><tbody>"
    )
    for first, *others in table.rows:
        cells = "".join([f"<td{' class=long' if len(cell) > _LONG else ''}>{_text(cell)}</td>" for cell in others])
        yield f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>'
    yield "</tbody></table></div></details>"


def _text(text: str) -> str:
    """Return a text as HTML; half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))


def _json(value: object) -> str:
    """Return JSON that ends no script element, whatever is in it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
