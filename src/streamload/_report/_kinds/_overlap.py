"""Results of the overlap benchmark: how much of moving is hidden behind computing.

Part of `_report`; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..._units import say_bytes, say_count, say_rate
from .._bars import Bar, bar_chart
from .._chart import Section, Table, Verdict
from .._layers import layer_chart
from .._say import say, say_figure, say_ratio
from ._facts import facts_of, subject, timelines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._chart import Chart
    from .._result import JsonObject, Result

__all__ = ["overlap"]

_HOW: Final = (
    "Seconds, so shorter is better. Bars are medians, the line on a bar goes from the fastest round to the slowest. "
)
_WAYS: Final = {"least possible": "ceiling", "streamload": "streamload", "the usual way": "peer"}


def overlap(result: Result, content: JsonObject) -> Section:
    """Show first tokens against max(X, C), the model once it is there, and one that exceeds its device."""
    cold, peers = content["cold"], _peers(content["peers"])
    charts: list[Chart] = [*timelines_of(content), _cold(cold)]
    worst = max(cold, key=lambda case: case["figures"]["stall_seconds"])
    charts.append(
        layer_chart(
            f"Each layer, streamed and resident: prompt of {say_count(worst['tokens'], 'token')}",
            worst["layer_compute_seconds"],
            worst["layer_streamed_seconds"],
        )
    )
    if any(bar.value is not None for bar in peers):
        note = f"{_HOW}One token, without all weights on the device."
        charts.append(bar_chart("First token beside other people's offloading", note, peers, "s"))
    simulated = content["simulated_link"]
    return Section(
        result=result,
        title="Overlap: moving hidden behind computing",
        subject=subject(
            content["model"],
            f"{say_bytes(content['nbytes'])} in {say_count(content['layers'], 'layer')}",
            f"to {content['device']}",
            f"page cache {content['cache']}",
            say_count(content["rounds"], "round"),
            None if simulated is None else f"simulated link of {say_rate(simulated)}",
        ),
        facts=facts_of(content),
        verdicts=_verdicts(content),
        charts=tuple(charts),
        tables=(("The model once it is there, asleep, and too large", _others(content)),),
    )


def _verdicts(content: JsonObject) -> tuple[Verdict, ...]:
    ratios = [case["figures"]["ratio"] for case in content["cold"]]
    steady = content["steady"]["figures"]["ratio"]
    return (
        Verdict(f"{say_ratio(min(ratios))} ×", "max(X, C)", "first token, best prompt"),
        Verdict(f"{say_ratio(max(ratios))} ×", "max(X, C)", "first token, worst prompt"),
        Verdict(f"{say_ratio(content['wake']['figures']['ratio'])} ×", "max(X, C)", "after sleep"),
        Verdict(f"{say_ratio(steady['median'])} ×", "the plain model's pass", "once it is there"),
        Verdict(
            f"{say_ratio(content['oversized']['figures']['link_fraction'])} ×",
            "of the link's rate",
            "too large a model",
        ),
    )


def _cold(cases: Sequence[JsonObject]) -> Chart:
    bars = []
    for case in cases:
        figures, group = case["figures"], f"prompt of {say_count(case['tokens'], 'token')}"
        moved = [
            case["nbytes"] / min(pair)
            for pair in zip(case["link_bytes_per_second"], case["storage_bytes_per_second"], strict=True)
        ]
        ideal = [max(pair) for pair in zip(moved, case["compute_seconds"], strict=True)]
        bars += [
            Bar(
                name="max(X, C)",
                role="least possible",
                value=max(figures["move_seconds"], figures["compute_seconds"]),
                rounds=ideal,
                group=group,
            ),
            Bar(
                name="streamed",
                role="streamload",
                value=figures["streamed_seconds"],
                rounds=case["streamed_seconds"],
                group=group,
            ),
            Bar(
                name="every weight waited for first",
                role="the usual way",
                value=figures["usual_seconds"],
                rounds=case["usual_seconds"],
                group=group,
            ),
        ]
    note = f"{_HOW}X: moving all weights. C: computing with all of them there. Nothing is faster than the longer one."
    return bar_chart("Seconds until the first token", note, bars, "s", roles=_WAYS)


def _peers(peers: Sequence[JsonObject]) -> list[Bar]:
    return [
        Bar(
            name=peer["name"],
            role=peer["role"],
            value=peer["figures"]["first_token_seconds"],
            rounds=peer["first_token_seconds"],
            why=peer["cannot_run"],
        )
        for peer in peers
    ]


def _others(content: JsonObject) -> Table:
    steady, wake, large = (content[name]["figures"] for name in ("steady", "wake", "oversized"))
    control = steady["control"]
    return Table(
        ("", "figure", "from, to"),
        (
            (
                "once there: pass over a plain model's",
                say(steady["ratio"]["median"], "×"),
                f"{say_figure(steady['ratio']['low'])} to {say_figure(steady['ratio']['high'])}",
            ),
            (
                "two plain models beside each other",
                say(control["median"], "×"),
                f"{say_figure(control['low'])} to {say_figure(control['high'])}",
            ),
            (
                "asleep: first token over max(X, C)",
                say(wake["ratio"], "×"),
                f"{say_figure(wake['ratio_least'])} to {say_figure(wake['ratio_greatest'])}",
            ),
            ("asleep: first token", say(wake["wake_seconds"], "s"), ""),
            ("too large: part of the link's rate", say(large["link_fraction"], "×"), ""),
            ("too large: one token", say(large["decode_seconds"], "s"), ""),
            (
                "too large: a prompt over a resident one's",
                say(large["over_resident"], "×"),
                f"{say_figure(large['over_resident_interval']['low'])} to "
                f"{say_figure(large['over_resident_interval']['high'])}",
            ),
        ),
    )
