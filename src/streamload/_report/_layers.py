"""What each layer took, streamed and with everything resident.

Part of `_report`; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._chart import Chart, Table, base_spec, legend
from ._say import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["layer_chart"]

_STREAMED, _RESIDENT = "streamed, with its waiting", "resident"


def layer_chart(title: str, resident: Mapping[str, float], streamed: Mapping[str, float]) -> Chart:
    """Return layers in execution order, their times streamed behind those with everything resident.

    Args:
        title: What it shows.
        resident: Seconds by layer.
        streamed: The same; in their order.
    """
    layers = list(streamed)
    rows = tuple([(layer, say(resident.get(layer), "s"), say(streamed[layer], "s")) for layer in layers])
    return Chart(
        title=title,
        note="What is grey is waiting for bytes. Measured with marks around each layer.",
        spec=_spec(title, len(layers), _data(resident, streamed)),
        table=Table(("layer", _RESIDENT, _STREAMED), rows),
        wide=True,
    )


def _data(resident: Mapping[str, float], streamed: Mapping[str, float]) -> list[dict[str, object]]:
    return [
        {
            "place": place + 1,
            "right": place + 1.86,
            "layer": layer,
            "way": way,
            "seconds": seconds,
            "words": say(seconds, "s"),
            "other": say(other, "s"),
        }
        for place, layer in enumerate(streamed)
        for way, seconds, other in (
            (_STREAMED, streamed[layer], resident.get(layer)),
            (_RESIDENT, resident.get(layer), streamed[layer]),
        )
        if seconds is not None
    ]


def _spec(title: str, layers: int, data: Sequence[object]) -> dict[str, object]:
    x = {
        "field": "place",
        "type": "quantitative",
        "scale": {"domain": [1, layers + 1], "nice": False},
        "axis": {"title": "layers, in the order they compute", "tickCount": 8, "format": "d", "grid": False},
    }
    y = {
        "field": "seconds",
        "type": "quantitative",
        "scale": {"zero": True},
        "axis": {"title": None, "tickCount": 4, "format": "~f", "labelExpr": "datum.label + ' s'"},
    }
    tips = [
        {"field": "layer"},
        {"field": "way", "title": "way"},
        {"field": "words", "title": "took"},
        {"field": "other", "title": "the other way"},
    ]
    return {
        **base_spec(f"{title}. The table has the same values."),
        "height": 200,
        "data": {"values": list(data)},
        "layer": [
            {
                "name": name,
                "transform": [{"filter": {"field": "way", "equal": way}}],
                "mark": {"type": "rect"},
                "encoding": {
                    "x": x,
                    "x2": {"field": "right"},
                    "y": y,
                    "y2": {"datum": 0},
                    "color": {"field": "way", **legend({_STREAMED: "read", _RESIDENT: "compute"})},
                    "tooltip": tips,
                },
            }
            for name, way in (("streamed", _STREAMED), ("hit", _RESIDENT))
        ],
    }
