"""Reads, copies and computing by layer, one load above the other on one axis of time.

Part of `_report`; pure. The first load is the sequential one, if there are two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._trace import Lane, layer_groups
from ._chart import Chart, Table, base_spec, legend, within
from ._rows import vertical
from ._say import say
from ._theme import token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._result import JsonObject

__all__ = ["timeline_chart"]

_MOST_ROWS = 24
_MOST_INSTANTS = 4
_LEAST_VISIBLE = 0.002  # of the axis: shorter bars are drawn this long, a pixel on a phone
_TOUCHING = 0.001  # of the axis: spans of a row and lane that are closer become one bar
_LABELS = 104  # pixels
_LANES: Final = (Lane.READ, Lane.COPY, Lane.COMPUTE)
_EARLY: Final = 0.3  # of the axis: what is later has its words on its left
_TIPS: Final = ("load", "layer", "lane", "began", "ended", "took", "bytes", "spans")
_WORDS: Final = {Lane.READ: "read", Lane.COPY: "copy", Lane.COMPUTE: "compute"}
# Where a lane's bar lies in a row of height 1, from its top.
_PLACES: Final = {Lane.READ: (0.04, 0.3), Lane.COPY: (0.34, 0.6), Lane.COMPUTE: (0.64, 0.96)}


@dataclass(slots=True)
class _Drawn:
    """One bar: spans of a row and lane that no eye could tell apart."""

    first: str
    last: str
    start: float
    end: float
    nbytes: int
    spans: int


def timeline_chart(timelines: Sequence[JsonObject]) -> Chart:
    """Return timelines, as a result's JSON holds them, as one chart."""
    end = max([_end(timeline) for timeline in timelines], default=0.0) or 1.0
    bars: list[dict[str, object]] = []
    labels: list[dict[str, object]] = []
    titles: list[dict[str, object]] = []
    moments: list[dict[str, object]] = []
    table: list[tuple[str, ...]] = []
    at = 0.0
    for timeline in timelines:
        title, _, more = str(timeline["title"]).partition(": ")
        titles.append({"text": title, "more": more, "y": at + 0.5, "below": at + 1.5})
        at += 2.2 if more else 1.3
        shown = _instants(timeline)
        rows = layer_groups(timeline["layers"], _MOST_ROWS)
        low = at + len(shown) + len(rows)
        for number, (name, seconds) in enumerate(shown):
            moments.append(_moment(name, seconds, end, at + number, low))
        at += len(shown)
        for label, layers in rows.items():
            labels.append({"text": label, "y": at + 0.5})
            found = {lane: _bars(timeline["spans"], lane, set(layers), end) for lane in _LANES}
            bars += [_datum(drawn, lane, at, end, timeline["title"]) for lane in _LANES for drawn in found[lane]]
            table.append((label, str(timeline["title"]), *[_stretch(found[lane]) for lane in _LANES]))
            at += 1
        at += 0.8
    step = 15 if len(labels) > 14 else 20
    return Chart(
        title="What was done when",
        note="Each row is a layer, or a few in a row; all loads share one axis of time. A layer is read, copied to the "
        "device, and then computed.",
        spec=_spec(bars, labels, titles, moments, end=end, height=at, step=step),
        table=Table(("layer", "load", "reads", "copies", "computing"), tuple(table)),
        wide=True,
    )


def _end(timeline: JsonObject) -> float:
    ends = [span["end"] for span in timeline["spans"]] + [seconds for _, seconds in timeline["instants"]]
    return max(ends, default=0.0)


def _instants(timeline: JsonObject) -> list[tuple[str, float]]:
    """Return moments of the whole load; a load may also know some of each layer, too many to write."""
    found = sorted(((str(name), seconds) for name, seconds in timeline["instants"]), key=lambda one: one[1])
    if len(found) > _MOST_INSTANTS:
        found = [one for one in found if not any(layer and layer in one[0] for layer in timeline["layers"])]
    return found[-_MOST_INSTANTS:]


def _bars(spans: Sequence[JsonObject], lane: Lane, layers: set[str], end: float) -> list[_Drawn]:
    found: list[_Drawn] = []
    own = [span for span in spans if span["lane"] == lane.value and span["layer"] in layers]
    for span in sorted(own, key=lambda span: (span["start"], span["end"])):
        if found and span["start"] <= found[-1].end + _TOUCHING * end:
            found[-1].end = max(found[-1].end, span["end"])
            found[-1].last = span["layer"]
            found[-1].nbytes += span["nbytes"]
            found[-1].spans += 1
        else:
            found.append(_Drawn(span["layer"], span["layer"], span["start"], span["end"], span["nbytes"], 1))
    return found


def _datum(drawn: _Drawn, lane: Lane, top: float, end: float, title: str) -> dict[str, object]:
    high, low = _PLACES[lane]
    return {
        "load": title,
        "layer": drawn.first if drawn.first == drawn.last else f"{drawn.first} … {drawn.last}",
        "lane": _WORDS[lane],
        "start": drawn.start,
        "end": drawn.end,
        "drawn_end": max(drawn.end, drawn.start + _LEAST_VISIBLE * end),
        "high": top + high,
        "low": top + low,
        "nbytes": drawn.nbytes,
        "spans": drawn.spans,
        "began": say(drawn.start, "s"),
        "ended": say(drawn.end, "s"),
        "took": say(drawn.end - drawn.start, "s"),
        "bytes": say(drawn.nbytes, "bytes") if drawn.nbytes else "–",
    }


def _moment(name: str, seconds: float, end: float, line: float, low: float) -> dict[str, object]:
    words = f"{name} {say(seconds, 's')}"
    return {"text": words, "x": seconds, "y": line + 0.5, "low": low, "late": seconds > _EARLY * end}


def _stretch(found: Sequence[_Drawn]) -> str:
    return f"{say(found[0].start, 's')} to {say(max(each.end for each in found), 's')}" if found else "–"


def _spec(
    bars: list[dict[str, object]],
    labels: list[dict[str, object]],
    titles: list[dict[str, object]],
    moments: list[dict[str, object]],
    *,
    end: float,
    height: float,
    step: int,
) -> dict[str, object]:
    x = {
        "type": "quantitative",
        "scale": {"domain": [0, end], "nice": False},
        "axis": {"title": "seconds since the load began", "tickCount": 6, "format": "~f"},
    }
    lanes = {word: lane.value for lane, word in _WORDS.items() if any(bar["lane"] == word for bar in bars)}
    span = {
        "name": "hit",
        "data": {"values": bars},
        "mark": {"type": "rect"},
        "encoding": {
            "x": {"field": "start", **x},
            "x2": {"field": "drawn_end"},
            "y": vertical("high", height),
            "y2": {"field": "low"},
            "color": {"field": "lane", **legend(lanes)},
            "tooltip": [{"field": name} for name in _TIPS],
        },
    }
    rule = {
        "data": {"values": moments},
        "mark": {"type": "rule", "color": token("ink"), "strokeWidth": 1.25},
        "encoding": {"x": {"field": "x", **x}, "y": vertical("y", height), "y2": {"field": "low"}},
    }
    layers = [span, *([rule] if moments else []), *_texts(labels, titles, moments, height)]
    return {
        **base_spec("Reads, copies and computing of each layer. The table has the same values."),
        "height": round(height * step),
        "layer": layers,
    }


def _texts(
    labels: list[dict[str, object]], titles: list[dict[str, object]], moments: list[dict[str, object]], height: float
) -> list[dict[str, object]]:
    """Return layers of what is written: names of layers, of loads, and of moments."""
    quiet, strong = {"color": token("quiet")}, {"fontWeight": 600}
    title = {"align": "left", "limit": within(1, _LABELS)}
    moment = {"fontSize": 11, **strong}
    label = {"align": "right", "limit": _LABELS - 10, "fontSize": 10, **quiet}
    left: dict[str, object] = {"value": -_LABELS}
    at: dict[str, object] = {"field": "x", "type": "quantitative"}
    late = [each for each in moments if each["late"]]
    early = [each for each in moments if not each["late"]]
    return [
        {
            "data": {"values": values},
            "mark": {"type": "text", "baseline": "middle", **look},
            "encoding": {"x": x, "y": vertical(place, height), "text": {"field": field}},
        }
        for values, look, x, place, field in (
            (titles, {**title, "fontSize": 13, **strong}, left, "y", "text"),
            (titles, {**title, **quiet}, left, "below", "more"),
            (labels, label, {"value": -8}, "y", "text"),
            (late, {"align": "right", "dx": -5, **moment, "limit": within(_EARLY, _LABELS)}, at, "y", "text"),
            (early, {"align": "left", "dx": 5, **moment, "limit": within(1 - _EARLY, -5)}, at, "y", "text"),
        )
        if values
    ]
