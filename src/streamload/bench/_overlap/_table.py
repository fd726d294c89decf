"""The overlap benchmark's result as text, within 100 columns.

Part of `bench._overlap`; pure.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from ..._units import say_bytes, say_count, say_rate, say_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._interval import Interval
    from ._result import ColdCase, OverlapBench

__all__ = ["overlap_table"]

_COLUMNS = {
    "tokens": 7,
    "X": 9,
    "C": 9,
    "C / X": 7,
    "streamed": 10,
    "/max(X,C)": 11,
    "usual way": 11,
    "/max(X,C)  ": 12,
    "stalls": 9,
    "meas/pred": 11,
}


def overlap_table(bench: OverlapBench) -> str:
    """Return a benchmark as text."""
    return "\n".join([*_heading(bench), "", *_cold(bench), *_steady(bench)])


def _heading(bench: OverlapBench) -> Iterator[str]:
    yield (
        f"{bench.model}: {say_bytes(bench.nbytes)} in {say_count(bench.layers, 'layer')} to {bench.device}, "
        f"page cache {bench.cache}"
    )
    link = median(rate for case in bench.cold for rate in case.link_bytes_per_second)
    storage = median(rate for case in bench.cold for rate in case.storage_bytes_per_second)
    kind = "link" if bench.simulated_link is None else "SIMULATED link"
    yield f"{kind} measured at {say_rate(link)}, storage at {say_rate(storage)}; {say_count(bench.rounds, 'round')}"
    if bench.simulated_link is not None:
        yield f"computing on {say_count(bench.threads, 'thread')}, since a GPU would not compute on those that copy"
    yield "every output was equal to that of the model loaded plainly, bit for bit"


def _cold(bench: OverlapBench) -> Iterator[str]:
    yield "cold start, until the first token is on the host; medians"
    yield "".join(f"{name.strip():>{width}}" for name, width in _COLUMNS.items())
    for case in bench.cold:
        yield "".join(f"{cell:>{width}}" for cell, width in zip(_cells(case), _COLUMNS.values(), strict=True))
    for case in bench.cold:
        stalls = sorted(case.layer_stall_seconds.items(), key=lambda item: -item[1])[:3]
        longest = ", ".join(f"{name.removeprefix('model.')} {say_seconds(seconds)}" for name, seconds in stalls)
        yield f"longest stalls at {say_count(case.tokens, 'token')}: {longest}"


def _cells(case: ColdCase) -> Iterator[str]:
    figures = case.figures()
    yield f"{case.tokens:,}"
    yield say_seconds(figures["move_seconds"] or 0.0)
    yield say_seconds(figures["compute_seconds"] or 0.0)
    yield f"{figures['compute_to_move']:.2f}"
    yield say_seconds(figures["streamed_seconds"] or 0.0)
    yield f"{figures['ratio']:.3f}"
    yield say_seconds(figures["usual_seconds"] or 0.0)
    yield f"{figures['usual_ratio']:.3f}"
    yield say_seconds(figures["stall_seconds"] or 0.0)
    yield "-" if figures["measured_to_predicted"] is None else f"{figures['measured_to_predicted']:.3f}"


def _steady(bench: OverlapBench) -> Iterator[str]:
    steady = bench.steady
    if steady is None:
        return
    same = "the same" if steady.ratio().within(steady.margin) else "NOT shown to be the same"
    yield ""
    yield (
        f"once resident, {say_count(steady.tokens, 'token')}, each pass {len(steady.plain_seconds)} times: "
        f"streamed / plain {_interval(steady.ratio())},"
    )
    yield f"plain / plain {_interval(steady.control())}; {same} to within {steady.margin:.0%}"


def _interval(interval: Interval) -> str:
    return f"{interval.median:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
