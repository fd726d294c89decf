"""Pictures of charts, for READMEs.

Part of `_report`; needs vl-convert-python, imported when something is drawn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ._chart import base_spec
from ._theme import in_light

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._chart import Chart

__all__ = ["library", "picture_png", "picture_svg"]

_WIDTH: Final = 720
_SCALE: Final = 2  # of PNG: sharp on screens that have two pixels where others have one
_VERSION: Final = "6.4"  # of Vega-Lite, which vl-convert has several of


def library() -> str:
    """Return the JavaScript that draws charts on a page: `vegaEmbed` and all that it needs.

    Raises:
        ModuleNotFoundError: vl-convert-python is not installed.
    """
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _VERSION)


def picture_svg(charts: Sequence[Chart]) -> bytes:
    """Return charts under each other as SVG.

    Raises:
        ModuleNotFoundError: vl-convert-python is not installed.
    """
    import vl_convert

    return vl_convert.vegalite_to_svg(_one(charts), vl_version=_VERSION).encode()


def picture_png(charts: Sequence[Chart]) -> bytes:
    """Return charts under each other as PNG.

    Raises:
        ModuleNotFoundError: vl-convert-python is not installed.
    """
    import vl_convert

    return vl_convert.vegalite_to_png(_one(charts), vl_version=_VERSION, scale=_SCALE)


def _one(charts: Sequence[Chart]) -> str:
    """Return one chart of several, as it looks on white paper."""
    each: list[dict[str, Any]] = []
    for chart in charts:
        spec = {key: value for key, value in chart.spec.items() if key not in ("$schema", "config", "description")}
        each.append({"title": {"text": chart.title, "frame": "group"}, "width": _WIDTH, **_as_part(spec)})
    whole: dict[str, Any] = base_spec("; ".join([chart.title for chart in charts]))
    whole["config"] |= {"background": "white", "font": "sans-serif"}
    whole |= {"vconcat": each, "spacing": 36, "padding": 20, "bounds": "full"}
    whole["resolve"] = {"scale": {"color": "independent"}}
    return json.dumps(in_light(whole))


def _as_part(spec: Any) -> Any:  # noqa: ANN401 - any part of a chart
    """Return a chart as one of several: texts as long as this width allows (see `within`), marks without names.

    Two marks of one name in one picture would be drawn with each other's data.
    """
    if isinstance(spec, dict) and spec.keys() == {"expr"}:
        part, more = spec["expr"].split(" * width + ")
        return float(part) * _WIDTH + float(more)
    if isinstance(spec, dict):
        named = "mark" in spec and "encoding" in spec
        return {key: _as_part(value) for key, value in spec.items() if not (named and key == "name")}
    return [_as_part(value) for value in spec] if isinstance(spec, list) else spec
