"""Results about the first token: the demo, `from_pretrained`, the example server, a slow link.

Part of `_report`; pure.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from ..._units import say_bytes, say_count, say_rate
from .._bars import Bar, bar_chart
from .._chart import Section, Table, Verdict, rows_of
from .._say import say, say_ratio
from ._facts import facts_of, subject, timelines_of

if TYPE_CHECKING:
    from .._result import JsonObject, Result

__all__ = ["demo", "from_pretrained", "planning", "server", "slow_link"]

_HOW: Final = (
    "Seconds, so shorter is better. Bars are medians, the line on a bar goes from the fastest round to the slowest. "
)
_WAYS: Final = {"least possible": "ceiling", "streamload": "streamload", "the usual way": "peer"}
_IDEAL: Final = "The mark across bars is max(X, C): moving all weights and computing at once, neither waiting."


def demo(result: Result, content: JsonObject) -> Section:
    """Show the demo's first tokens, and what happened when."""
    medians = content["median_seconds"]
    ideal = max(content["move_seconds"], medians["compute"])
    simulated = content["simulated_link"]
    return Section(
        result=result,
        title="The first token, streamed",
        subject=subject(
            content["subject"],
            say_bytes(content["nbytes"]),
            say_count(content["tokens"], "token"),
            f"to {content['device']}",
            None if simulated is None else f"simulated link of {say_rate(simulated)}, no GPU",
        ),
        facts=facts_of(content),
        notes=tuple([*map(str, content["failures"]), *map(str, content["doubts"])]),
        verdicts=(
            Verdict(
                f"{say_ratio(medians['usual'] / medians['streamed'])} ×",
                "as fast as the usual way",
                "first token",
            ),
            Verdict(
                f"{say_ratio(content['ratio_to_max_of_move_and_compute'])} ×", "max(X, C)", "1 is the least possible"
            ),
            Verdict("equal" if content["bits_equal"] else "DIFFER", "outputs, bit for bit"),
        ),
        charts=(
            *timelines_of(content),
            bar_chart("Until the first token", _HOW + _IDEAL, _demo_bars(content), "s", roles=_WAYS, rule=ideal),
        ),
    )


def _demo_bars(content: JsonObject) -> list[Bar]:
    bars = [Bar(name="X: all weights over the link", role="least possible", value=content["move_seconds"])]
    for name, key, role in (
        ("C: one pass, all resident", "compute", "least possible"),
        ("first token, streamed", "streamed", "streamload"),
        ("first token, the usual way", "usual", "the usual way"),
        ("first token, safetensors", "safetensors", "the usual way"),
    ):
        if content[key] is not None:
            value, rounds = content["median_seconds"][key], content[key]["seconds"]
            bars.append(Bar(name=name, role=role, value=value, rounds=rounds))
    return bars


def from_pretrained(result: Result, content: JsonObject) -> Section:
    """Show transformers' load, stock and streamed."""
    sides = (("transformers", "stock", "the usual way"), ("streamload", "streamed", "streamload"))
    bars = [
        Bar(
            name=name,
            role=role,
            value=content["medians"][side][f"{what}_seconds"],
            rounds=content[side][f"{what}_seconds"],
            group=words,
        )
        for what, words in (
            ("return", "until it returns"),
            ("first_token", "until the first token"),
            ("resident", "until all is resident (mapped files count as resident)"),
            ("copied", "until all is resident and copied out of mapped files"),
        )
        for name, side, role in sides
        if content[side][f"{what}_seconds"]
    ]
    memory = [
        (words, *[say(content["medians"][side][field], "bytes") for _, side, _ in sides])
        for words, field in (
            ("mapped files counted", "peak_memory_bytes"),
            ("mapped files not counted", "private_peak_bytes"),
            ("on the GPU", "device_peak_bytes"),
        )
    ]
    words = {
        "return_seconds": "until it returns",
        "first_token_seconds": "until the first token",
        "resident_seconds": "until all is resident",
        "resident_to_copied": "until all is in memory",
    }
    return Section(
        result=result,
        title="from_pretrained, stock and streamed",
        subject=subject(
            content["model"],
            f"{say_bytes(content['nbytes'])} in {say_count(content['tensors'], 'tensor')} of {content['dtype']}",
            f"to {content['device']}",
            f"page cache {content['cache']}",
            say_count(content["pairs"], "pair"),
            f"outputs {content['output']}",
        ),
        facts=facts_of(content),
        verdicts=tuple(
            [
                Verdict(f"{say_ratio(value)} ×", "transformers' time", words[name])
                for name, value in content["median_ratios"].items()
                if value is not None and name in words
            ]
        ),
        charts=(*timelines_of(content), bar_chart("Seconds from the call", _HOW, bars, "s", roles=_WAYS)),
        tables=(("Peak memory", Table(("", "transformers", "streamload"), rows_of(*memory))),),
    )


def planning(result: Result, content: JsonObject) -> Section:
    """Show what `from_pretrained` takes with very many tensors."""
    bars = [
        Bar(name=name, role=role, value=median(content[f"{side}_seconds"]), rounds=content[f"{side}_seconds"])
        for name, side, role in (
            ("transformers, until it returns", "stock", "the usual way"),
            ("streamload, until it returns", "streamed", "streamload"),
            ("streamload, until all is resident", "resident", "streamload"),
        )
    ]
    return Section(
        result=result,
        title="from_pretrained, very many tensors",
        subject=subject(say_count(content["tensors"], "tensor"), say_count(len(content["stock_seconds"]), "round")),
        facts=facts_of(content),
        verdicts=(Verdict(f"{say_ratio(content['ratio'])} ×", "transformers' time", "until it returns"),),
        charts=(bar_chart("Seconds from the call", _HOW, bars, "s", roles=_WAYS),),
    )


def server(result: Result, content: JsonObject) -> Section:
    """Show the example server's first tokens over a slow link."""
    bars: list[Bar] = []
    verdicts = []
    for name, prompt in content["prompts"].items():
        group = f"{name} prompt: {say_count(prompt['tokens'], 'token')}"
        runs = prompt["runs"]
        ideal = [max(run["link"], run["compute"]) for run in runs]
        bars += [
            Bar(name="max(X, C)", role="least possible", value=median(ideal), rounds=ideal, group=group),
            _first_token("streaming", "streamload", runs, group),
            _first_token("blocking", "the usual way", runs, group),
        ]
        verdicts += [
            Verdict(f"{say_ratio(prompt['ratio'])} ×", "max(X, C)", f"first token, {name} prompt"),
            Verdict(f"{say_ratio(prompt['ratio_to_blocking'])} ×", "the time of loading first", f"{name} prompt"),
        ]
    return _over_a_link(result, content, "Example server: first token over a slow link", verdicts, bars)


def slow_link(result: Result, content: JsonObject) -> Section:
    """Show first tokens over a slow link, by how much there is to compute."""
    bars: list[Bar] = []
    verdicts = []
    for name, case in content["compute_to_link"].items():
        group, runs = f"computing takes {name} of the download", case["runs"]
        ideal = [max(run["download"], run["compute"]) for run in runs]
        bars.append(Bar(name="max(X, C)", role="least possible", value=median(ideal), rounds=ideal, group=group))
        for words, key, role in (
            ("streamed", "streamed", "streamload"),
            ("download, then load", "usual", "the usual way"),
        ):
            seconds = [run[key] for run in runs]
            bars.append(Bar(name=words, role=role, value=median(seconds), rounds=seconds, group=group))
        verdicts += [
            Verdict(f"{say_ratio(case['ratio'])} ×", "max(X, C)", group),
            Verdict(f"{say_ratio(case['ratio_to_usual'])} ×", "the time of downloading first", group),
        ]
    return _over_a_link(result, content, "First token over a slow link", verdicts, bars)


def _over_a_link(result: Result, content: JsonObject, title: str, verdicts: list[Verdict], bars: list[Bar]) -> Section:
    return Section(
        result=result,
        title=title,
        subject=subject(
            say_bytes(content["nbytes"]),
            f"link of {say_rate(content['link_bytes_per_second'])}",
            f"{say(content['latency_seconds'], 's')} a request",
        ),
        facts=facts_of(content),
        verdicts=tuple(verdicts),
        charts=(*timelines_of(content), bar_chart("Seconds until the first token", _HOW, bars, "s", roles=_WAYS)),
    )


def _first_token(way: str, role: str, runs: list[JsonObject], group: str) -> Bar:
    seconds = [run[way]["first_token"] for run in runs]
    words = {"streaming": "streamed", "blocking": "all weights loaded first"}[way]
    return Bar(name=words, role=role, value=median(seconds), rounds=seconds, group=group)
