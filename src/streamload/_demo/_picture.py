"""Draw timelines as a picture.

Floor 6; needs matplotlib, imported when a picture is drawn. Uses no global figure state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._trace import Lane, layer_groups

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from ._timeline import Timeline

__all__ = ["write_picture"]

_MOST_ROWS = 40
_LEAST_VISIBLE = 0.0015  # of the time axis: shorter bars are drawn this long, about a pixel and a half
_INK, _FAINT = "#1f2933", "#d5dae0"
_COLOURS = {Lane.READ: "#b8c4d0", Lane.COPY: "#f0a04b", Lane.COMPUTE: "#2a6fb0"}
_WORDS = {Lane.READ: "read from file", Lane.COPY: "copy over the link", Lane.COMPUTE: "compute"}
# Within a row of height 1, from the top: where a lane's bar lies and how high it is.
_PLACES = {Lane.READ: (-0.46, 0.26), Lane.COPY: (-0.18, 0.26), Lane.COMPUTE: (0.1, 0.36)}


def write_picture(timelines: Sequence[Timeline], path: Path, *, heading: str, note: str) -> None:
    """Write the timelines under each other, on one time axis, as PNG.

    Args:
        timelines: The runs to compare.
        path: File to write.
        heading: One line above the picture: the result.
        note: A line or two below it: what was measured, on what.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    groups = layer_groups(timelines[0].layers, _MOST_ROWS)
    row_inches = 0.15 if len(groups) > 12 else 0.26
    height = 1.6 + len(timelines) * (len(groups) * row_inches + 0.55)
    figure = Figure(figsize=(11, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    end = max(timeline.end for timeline in timelines)
    for panel, timeline in zip(panels, timelines, strict=True):
        _draw_run(panel, timeline, groups, end)
    panels[-1].set_xlabel("seconds since the load began", color=_INK, fontsize=10)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color="#52606d")
    legend = [Patch(facecolor=_COLOURS[lane], label=_WORDS[lane]) for lane in _COLOURS]
    panels[0].legend(handles=legend, loc="lower left", fontsize=9, edgecolor=_FAINT)
    figure.savefig(path, dpi=130, format="png")


def _draw_run(panel: Axes, timeline: Timeline, groups: dict[str, list[str]], end: float) -> None:
    row_of = {layer: row for row, layers in enumerate(groups.values()) for layer in layers}
    for lane, (top, thickness) in _PLACES.items():
        for row in range(len(groups)):
            bars = [
                (span.start, max(span.end - span.start, _LEAST_VISIBLE * end))
                for span in timeline.lane(lane)
                if row_of.get(span.layer) == row
            ]
            panel.broken_barh(bars, (row + top, thickness), facecolors=_COLOURS[lane], linewidth=0)
    panel.axvline(timeline.first_token, color=_INK, linewidth=1.4)
    at_the_right = timeline.first_token > 0.75 * end
    panel.annotate(
        f" first token {timeline.first_token:.3f} s ",
        (timeline.first_token, len(groups) * (0.15 if at_the_right else 0.5)),
        ha="right" if at_the_right else "left",
        va="center",
        fontsize=10,
        fontweight="bold",
        color=_INK,
    )
    panel.set_title(timeline.title, loc="left", fontsize=11, color=_INK)
    panel.set_xlim(0, end * 1.02)
    panel.set_ylim(len(groups) - 0.4, -0.6)
    every = 1 if len(groups) <= 16 else 2
    panel.set_yticks(range(0, len(groups), every), list(groups)[::every], fontsize=7.5, color=_INK)
    panel.grid(axis="x", color=_FAINT, linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0, colors=_INK)
