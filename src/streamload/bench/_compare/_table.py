"""The comparison of loaders as text, within 100 columns.

Part of `bench._compare`; pure.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from ..._units import say_bytes, say_count, say_rate, say_seconds
from .._figures import machine_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._result import CompareBench, CompareSide

__all__ = ["compare_table"]

_NAME = 36
_COLUMNS = {"time": 9, "rate": 10, "/ceil": 6, "spread": 7}
_SIDE = sum(_COLUMNS.values()) - 2  # what stands above one side's columns


def compare_table(bench: CompareBench) -> str:
    """Return a comparison as text."""
    states = (f"{when} rounds: page cache {side.cache}" for when, side in bench.sides.items())
    head = "".join(f"{name:>{width}}" for name, width in _COLUMNS.items())
    lines = [
        f"{say_bytes(bench.nbytes)} in {say_count(bench.tensors, 'tensor')} to {bench.device}, "
        f"{say_count(bench.rounds, 'round')}; medians",
        "; ".join(states),
        machine_line(bench.machine),
        "",
        " " * _NAME + "".join(f"{f'{when} ':->{_SIDE}}".rjust(_SIDE + 2) for when in bench.sides),
        f"{'':<{_NAME}}{head * len(bench.sides)}",
        *(_row(bench, role, name) for role, name in bench.loaders() if _ran(bench, name)),
        "",
        *_reasons(bench),
        *(f"peers found {name}={text}" for name, text in bench.peer_settings.values.items()),
        "",
        *_ratios(bench),
    ]
    return "\n".join(lines)


def _ratios(bench: CompareBench) -> Iterator[str]:
    """Say each ratio, and whether it is more than the spread of the rounds."""
    for when, side in bench.sides.items():
        ours = side.best("streamload", bench.nbytes)
        for role, said in (("ceiling", "ceiling"), ("peer", "best peer")):
            other = side.best(role, bench.nbytes)
            if ours is not None and other is not None:
                ratio = ours.rate(bench.nbytes) / other.rate(bench.nbytes)
                within = ", within the spread" if ours.agrees_with(other) else ""
                yield f"{when} to {said}: {ratio:.3f} ({ours.name} over {other.name}{within})"


def _ran(bench: CompareBench, name: str) -> bool:
    scores = [side.score(name) for side in bench.sides.values()]
    return any(score is not None and score.seconds for score in scores)


def _row(bench: CompareBench, role: str, name: str) -> str:
    return f"{role:<11}{name}"[:_NAME].ljust(_NAME) + "".join(
        _cells(side, name, bench.nbytes) for side in bench.sides.values()
    )


def _cells(side: CompareSide, name: str, nbytes: int) -> str:
    score, ceiling = side.score(name), side.best("ceiling", nbytes)
    if score is None or not score.seconds:
        return "".join(f"{'-':>{width}}" for width in _COLUMNS.values())
    cells = (
        say_seconds(median(score.seconds)),
        say_rate(score.rate(nbytes)),
        "-" if ceiling is None else f"{score.rate(nbytes) / ceiling.rate(nbytes):.3f}",
        f"{score.spread:.0%}",
    )
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))


def _reasons(bench: CompareBench) -> Iterator[str]:
    """Say why somebody did not run, once if it is the same reason warm and cold."""
    said: set[str] = set()
    for side in bench.sides.values():
        for score in side.scores:
            why = f"wrong: {score.wrong}" if score.wrong else f"not run: {score.cannot_run}"
            line = f"{f'{score.role:<11}{score.name}':<{_NAME}}{why}"
            if not score.seconds and line not in said:
                said.add(line)
                yield line
