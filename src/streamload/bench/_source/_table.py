"""The result of the source benchmark as text, within 120 columns.

Part of `bench._source`; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._units import say_bytes, say_count, say_rate, say_seconds
from .._figures import left_out_lines, machine_line
from ._clients import CEILING, OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._result import SourceBench, SourceScore

__all__ = ["source_table"]

_NAME = 30
_COLUMNS = {
    "rate": 10,
    "spread": 8,
    "/raw": 7,
    "ours/it": 8,
    "busy": 10,
    "CPU s/GB": 10,
    "faults/GB": 11,
    "memory": 10,
    "1st layer": 11,
}


def source_table(bench: SourceBench) -> str:
    """Return a benchmark as text."""
    where = "a server on this machine's own processors" if bench.served_here else bench.url
    lines = [
        f"{say_bytes(bench.nbytes)} in {say_count(bench.objects, 'object')} from {where}; "
        f"{say_count(bench.rounds, 'round')}, medians",
        f"{say_count(bench.connections, 'request')} of {say_bytes(bench.range_bytes)} in flight, where a client leaves "
        "that open; streamload finds out its own",
        machine_line(bench.machine),
        "",
        f"{'':<{_NAME}}" + "".join(f"{name:>{width}}" for name, width in _COLUMNS.items()),
        *(_row(bench, score) for score in bench.scores),
        "",
        "busy: beside a main thread that runs Python all the while. memory: most above that at the start.",
        "",
        *_ratios(bench),
        *left_out_lines(bench.left_out),
    ]
    return "\n".join(lines)


def _row(bench: SourceBench, score: SourceScore) -> str:
    rate = score.rate(bench.nbytes)
    if rate is None:
        return f"{score.name:<{_NAME}}  not run: {score.cannot_run}"
    raw = bench.score(CEILING)
    ceiling = None if raw is None else raw.rate(bench.nbytes)
    mine = bench.score(OURS)
    ours = None if mine is None else mine.rate(bench.nbytes)
    busy, faults = score.rate(bench.nbytes, busy=True), score.median_of("page_faults")
    peak, first = score.median_of("peak_memory_bytes"), score.median_of("first_layer_seconds")
    cells = (
        say_rate(rate),
        f"{score.spread:.0%}",
        "-" if ceiling is None else f"{rate / ceiling:.2f}",
        "-" if score.role != "peer" or not ours else f"{ours / rate:.2f}",
        "-" if busy is None else say_rate(busy),
        f"{bench.cpu_seconds_per_gb(score) or 0.0:.3f}",
        "-" if faults is None else f"{faults / (bench.nbytes / 1e9):.0f}",
        "-" if peak is None else say_bytes(int(peak)),
        "-" if first is None else say_seconds(first),
    )
    return f"{score.name:<{_NAME}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, _COLUMNS.values(), strict=True))


def _ratios(bench: SourceBench) -> Iterator[str]:
    for name, value in bench.ratios().items():
        yield f"{name.replace('_', ' ')}: {value:.3f}"
