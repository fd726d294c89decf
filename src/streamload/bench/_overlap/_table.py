"""The overlap benchmark's result as text, within 100 columns.

Part of `bench._overlap`; pure.
"""

from __future__ import annotations

from statistics import fmean, median
from textwrap import wrap
from typing import TYPE_CHECKING

from ..._units import say_bytes, say_count, say_rate, say_seconds
from .._figures import left_out_lines, machine_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._interval import Interval
    from ._result import ColdCase, OverlapBench, OversizedCase, PeerScore, SteadyState, WakeCase

__all__ = ["overlap_table"]

_PEER_NAME = 44
_OUTPUTS = {"equal": "equal", "equal to rounding": "rounded"}
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
    parts = (
        _heading(bench),
        [""],
        _cold(bench),
        _wake(bench.wake),
        _oversized(bench.oversized),
        _steady(bench.steady),
        _peers(bench),
        left_out_lines(bench.left_out),
    )
    return "\n".join(line for part in parts for line in part)


def _heading(bench: OverlapBench) -> Iterator[str]:
    yield (
        f"{bench.model}: {say_bytes(bench.nbytes)} in {say_count(bench.layers, 'layer')} to {bench.device}, "
        f"page cache {bench.cache}"
    )
    link = [median(case.link_bytes_per_second) for case in (bench.cold[0], bench.cold[-1])]
    storage = median(rate for case in bench.cold for rate in case.storage_bytes_per_second)
    kind = "link" if bench.simulated_link is None else "SIMULATED link"
    at = say_rate(link[0])
    if (last := say_rate(link[1])) != at and bench.simulated_link is not None:
        at += f" ({last} for the longest prompt)"
    yield f"{kind} at {at}"
    yield f"storage at {say_rate(storage)}; {say_count(bench.rounds, 'round')}"
    yield machine_line(bench.machine)
    if bench.simulated_compute is not None:
        speed = f"{bench.simulated_compute / 1e9:g} GFLOP/s"
        yield f"SIMULATED computing at {speed}: each layer computes over the last tokens, then sleeps"
    elif bench.simulated_link is not None:
        yield f"computing on {say_count(bench.threads, 'thread')}, since a GPU would not compute on those that copy"
    yield "every output was equal to that of the model loaded plainly, bit for bit"


def _cold(bench: OverlapBench) -> Iterator[str]:
    yield "cold start, until the first token is on the host; medians, ratios those of pairs. The ceiling is the"
    yield "longer of X, all weights at the rate of link or storage, and C, the pass with everything resident"
    yield "".join(f"{name.strip():>{width}}" for name, width in _COLUMNS.items())
    for case in bench.cold:
        yield "".join(f"{cell:>{width}}" for cell, width in zip(_cells(case), _COLUMNS.values(), strict=True))
    for case in bench.cold:
        stalls = sorted(case.layer_stall_seconds.items(), key=lambda item: -item[1])[:1]
        longest = ", ".join(f"{name.removeprefix('model.')} {say_seconds(seconds)}" for name, seconds in stalls)
        load = say_seconds(median(case.load_seconds))
        yield (
            f"{say_count(case.tokens, 'token')}: {_spread(case.ratios)}; first read after {load}, "
            f"longest stall {longest}"
        )


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


def _oversized(case: OversizedCase) -> Iterator[str]:
    figures = case.figures()
    yield ""
    yield (
        f"oversized: {say_bytes(case.device_memory)} for the weights, {say_count(case.units, 'unit')} with "
        f"{say_bytes(case.streamed_bytes)} through {say_count(case.slots, 'slot')}"
    )
    yield (
        f"    1 token a pass: {say_seconds(median(case.decode_seconds) / case.decode_passes)}, "
        f"{figures['link_fraction']:.3f} of the link"
        f"{_predicted(figures['decode_to_predicted'])}"
    )
    yield (
        f"    {say_count(case.tokens, 'token')} a pass: {say_seconds(median(case.prompt_seconds))}, C is "
        f"{figures['compute_to_move']:.1f} of the moving at {say_rate(fmean(case.prompt_link_bytes_per_second))}"
        f"{_predicted(figures['prompt_to_predicted'])}"
    )
    yield f"    over resident {_interval(case.over_resident())}, {say_count(len(case.prompt_seconds), 'pair')}"


def _predicted(ratio: object) -> str:
    return f", {ratio:.3f} of what was predicted" if isinstance(ratio, float) else ""


def _spread(ratios: list[float]) -> str:
    return f"{say_count(len(ratios), 'pair')} from {min(ratios):.3f} to {max(ratios):.3f}"


def _wake(case: WakeCase) -> Iterator[str]:
    figures = case.figures()
    yield (
        f"after sleep, {say_count(case.tokens, 'token')}: {say_seconds(figures['wake_seconds'])} from wake(), "
        f"{figures['ratio']:.3f} of max(X, C); {_spread(case.ratios)}"
    )


def _steady(steady: SteadyState) -> Iterator[str]:
    same = "the same" if steady.ratio().within(steady.margin) else "NOT shown to be the same"
    yield ""
    yield (
        f"once resident, {steady.model}, {say_count(steady.tokens, 'token')} a pass, "
        f"{say_seconds(steady.plain_seconds)}; {steady.pairs} pairs of each of {say_count(steady.models, 'model')}:"
    )
    yield f"    streamed / plain {_interval(steady.ratio())}: {same} to within {steady.margin:.0%}"
    yield f"    plain / plain    {_interval(steady.control())}"


def _peers(bench: OverlapBench) -> Iterator[str]:
    how = "" if bench.simulated_link is None else "; without a pace, for only streamload uses the simulated link"
    yield ""
    yield f"1 token a pass, beside others{how}"
    yield f"{'':<{_PEER_NAME}}{'first':>10}{'a pass':>10}{'moves':>8}{'rate':>11}{'ours/it':>8}  output"
    for score in bench.peers:
        if score.cannot_run:
            yield f"{score.name:<{_PEER_NAME}}  not run:"
            yield from wrap(score.cannot_run, 96, initial_indent="    ", subsequent_indent="    ")
            continue
        figures = score.figures()
        rate = figures["bytes_per_second"]
        yield (
            f"{score.name:<{_PEER_NAME}}{say_seconds(figures['first_token_seconds'] or 0.0):>10}"
            f"{say_seconds(figures['pass_seconds'] or 0.0):>10}{score.moves:>8}"
            f"{'-' if rate is None else say_rate(rate):>11}{_to_ours(bench, score):>8}  {_OUTPUTS[score.output]}"
        )


def _to_ours(bench: OverlapBench, score: PeerScore) -> str:
    """Say a peer's first token over that of streamload; see `OverlapBench.ratio_to_peer`."""
    ratio = bench.ratio_to_peer(score)
    return "-" if ratio is None else f"{ratio:.2f}"


def _interval(interval: Interval) -> str:
    return f"{interval.median:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
