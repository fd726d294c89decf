"""Draw timelines with characters, one row a layer, for a terminal or a pipe.

Floor 6; pure. No colour and no cursor movement, so the same text is right in a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._trace import Lane, layer_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._timeline import Timeline

__all__ = ["GLYPHS_ASCII", "GLYPHS_UNICODE", "draw"]

_MOST_ROWS = 26
_LEAST_BAR = 24

# Later lanes are drawn over earlier ones.
GLYPHS_UNICODE = {Lane.READ: "·", Lane.COPY: "░", Lane.COMPUTE: "█"}
GLYPHS_ASCII = {Lane.READ: ".", Lane.COPY: "-", Lane.COMPUTE: "#"}


def draw(timelines: Sequence[Timeline], *, width: int, unicode: bool = True) -> str:
    """Return the timelines under each other, on one time axis.

    Args:
        timelines: The runs to compare.
        width: Columns to fill; at least 48 are used.
        unicode: False uses ASCII only.
    """
    glyphs = GLYPHS_UNICODE if unicode else GLYPHS_ASCII
    end = max(timeline.end for timeline in timelines)
    groups = layer_groups(timelines[0].layers, _MOST_ROWS)
    label_width = max(len(label) for label in groups) + 1
    bar_width = max(width - label_width - 3, _LEAST_BAR)
    legend = "   ".join(f"{glyph} {lane.value}" for lane, glyph in glyphs.items())
    lines = [f"{' ' * label_width} {legend}   | first token"]
    for timeline in timelines:
        lines += ["", f"{timeline.title}: first token after {timeline.first_token:.3f} s"]
        for label, layers in groups.items():
            bar = _bar(timeline, set(layers), bar_width, end, glyphs)
            lines.append(f"{label:<{label_width}} {bar}".rstrip())
    lines.append(f"{'seconds':<{label_width}} {_axis(end, bar_width)}")
    text = "\n".join(lines)
    return text if unicode else text.replace("…", "..").replace("·", ".")


def _bar(timeline: Timeline, layers: set[str], width: int, end: float, glyphs: dict[Lane, str]) -> str:
    cells = [" "] * (width + 1)
    cells[_cell(timeline.first_token, width, end) + 1] = "|"
    for lane, glyph in glyphs.items():
        for span in timeline.spans:
            if span.lane is lane and span.layer in layers:
                first, last = _cell(span.start, width, end), _cell(span.end, width, end)
                for cell in range(first, max(last, first + 1)):
                    cells[cell] = glyph
    return "".join(cells)


def _cell(seconds: float, width: int, end: float) -> int:
    return max(0, min(width - 1, int(seconds / end * width)))


def _axis(end: float, width: int) -> str:
    """Return a ruler with a number about every twelve columns."""
    count = max(2, width // 12)
    cells = [" "] * (width + 8)
    for tick in range(count + 1):
        at = tick * (width - 1) // count
        text = f"{end * at / (width - 1):.2f}" if end < 100 else f"{end * at / (width - 1):.0f}"
        at = min(at, width - len(text))
        cells[at : at + len(text)] = text
    return "".join(cells).rstrip()
