"""Results about moving bytes: the engine, the link, drives and buckets, all loaders, clients of stores.

Part of `_report`; pure.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final

from ..._units import say_bytes, say_count
from .._bars import Bar, bar_chart
from .._chart import Section, Table, Verdict, rows_of
from .._lines import line_chart
from .._say import say, say_ratio
from ._facts import facts_of, rate_bars, rates, ratio_verdicts, spread_verdict, subject, timelines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._chart import Chart
    from .._result import JsonObject, Result

__all__ = ["compare", "engine", "link", "many_tensors", "source", "storage", "vllm"]

_HOW: Final = "Bars are medians of the rounds, the line on a bar goes from the slowest to the fastest. "
_TARGETS: Final = {"existing": "existing memory", "new": "new memory", "ring": "through the ring"}
_BESIDE: Final = {"existing": ("existing", "drive"), "new": ("existing", "drive"), "ring": ("ring", "drive")}
_LINK: Final = {
    "copies": "Copies out of pinned memory, by their size",
    "single": "One copy at a time, by its size",
    "pageable": "Copies out of pageable memory, by their size",
}
_DRIVE: Final = {
    "direct": ("Cold, around the page cache", "cold, direct"),
    "buffered": ("Cold, through the page cache", "cold, buffered"),
    "cached": ("Warm, out of the page cache", "warm"),
    "bucket": ("The bucket, by connections", "bucket"),
}
_DRIVES: Final = {"direct": ("buffered",), "buffered": ("direct",)}  # what else was read from the drive
_NO_GPU: Final = (
    "No GPU: a stand-in. The device is host memory, its link is memcpy on one thread, and locking pages stands for "
    "pinning. Nothing here is the rate of a GPU's link."
)


def engine(result: Result, content: JsonObject) -> Section:
    """Show what the engine reached, target by target."""
    nbytes, scores = content["nbytes"], content["scores"]
    charts, every = timelines_of(content), []
    for target, words in _TARGETS.items():
        own = [score for score in scores if score["target"] == target and score["role"] != "ceiling"]
        ceilings = [score for score in scores if score["role"] == "ceiling" and score["target"] in _BESIDE[target]]
        bars = rate_bars([*ceilings, *own], nbytes)
        every += bars
        if own:
            charts.append(_held(f"Into {words}" if target != "ring" else "Through the ring", bars))
    return Section(
        result=result,
        title="Engine: from files into memory",
        subject=subject(
            f"{say_bytes(nbytes)} in {say_count(content['tensors'], 'tensor')}",
            f"to {content['device']}",
            f"page cache {content['cache']}",
            say_count(content["rounds"], "round"),
        ),
        facts=facts_of(content),
        verdicts=(*ratio_verdicts(content["ratios"], _TARGETS), *spread_verdict(every)),
        charts=tuple(charts),
        tables=(_processor_time(content),),
    )


def many_tensors(result: Result, content: JsonObject) -> Section:
    """Show the same bytes in few tensors and in many."""
    bars = [
        bar
        for group, nbytes, side in zip(content["tensors"], content["nbytes"], ("few", "many"), strict=True)
        for bar in rate_bars(content[side], nbytes, group=say_count(group, "tensor"))
    ]
    planning = content["planning"]
    costs = [
        Bar(
            name=words,
            role="streamload",
            value=content[f"{what}_microseconds_per_tensor"],
            rounds=[seconds / planning["tensors"] * 1e6 for seconds in planning[f"{what}_seconds"]],
        )
        for what, words in (("open", "opening"), ("plan", "planning"))
    ]
    return Section(
        result=result,
        title="Engine: the same bytes in few tensors and in many",
        subject=subject(f"to {content['device']}", "page cache warm", say_count(content["rounds"], "round")),
        facts=facts_of(content),
        verdicts=tuple(
            [
                Verdict(f"{say_ratio(value)} ×", "the rate with few tensors", _TARGETS.get(target, target))
                for target, value in content["ratios"].items()
            ]
        ),
        charts=(
            bar_chart("Rates", _HOW, bars, "GB/s"),
            bar_chart(f"Cost by the tensor, of {planning['tensors']:,}", _HOW, costs, "µs"),
        ),
    )


def link(result: Result, content: JsonObject) -> Section:
    """Show the link: copies by their size, and pinning."""
    figures = content["figures"]
    charts = timelines_of(content) + [
        line_chart(title, "Each point is a median; sizes stand apart by powers of two. ", _of(figures, target))
        for target, title in _LINK.items()
        if any(figure["gigabytes_per_second"] for figure in _of(figures, target))
    ]
    pinning = [
        Bar(
            name=figure["score"]["name"],
            role=figure["score"]["role"],
            value=content["pinning_seconds_per_gb"].get(figure["score"]["name"]),
            rounds=[seconds / (figure["nbytes"] / 1e9) for seconds in figure["score"]["seconds"]],
            why=figure["score"]["cannot_run"],
        )
        for figure in _of(figures, "pinning")
    ]
    if any(bar.value is not None for bar in pinning):
        charts.append(bar_chart("What pinning costs, for 10⁹ bytes", _HOW, pinning, "s"))
    return Section(
        result=result,
        title="Link: copies to the device",
        subject=subject(f"to {content['device']}", say_count(content["rounds"], "round")),
        facts=facts_of(content),
        notes=(_NO_GPU,) if content["stand_in"] else (),
        verdicts=tuple(ratio_verdicts(content["ratios"], {"copies": "pinned", "pageable": "pageable"})),
        charts=tuple(charts),
    )


def storage(result: Result, content: JsonObject) -> Section:
    """Show a drive, cold and warm, or a bucket."""
    figures, charts, every = content["figures"], timelines_of(content), []
    for target, (title, _) in _DRIVE.items():
        bars = _figure_bars(_of(figures, target))
        every += bars
        if bars:
            charts.append(
                _held(
                    title,
                    bars,
                    _figure_bars([each for other in _DRIVES.get(target, ()) for each in _of(figures, other)]),
                )
            )
    first = [
        Bar(
            name=figure["score"]["name"],
            role=figure["score"]["role"],
            value=figure["median_seconds"],
            rounds=figure["score"]["seconds"],
            why=figure["score"]["cannot_run"],
        )
        for figure in _of(figures, "first byte")
    ]
    if any(bar.value is not None for bar in first):
        charts.append(bar_chart("Until the first byte", _HOW, first, "s"))
    words = {target: short for target, (_, short) in _DRIVE.items()}
    return Section(
        result=result,
        title="Bucket: how fast it is" if content["store"] == "bucket" else "Drive: how fast it is",
        subject=subject(
            content["where"] or "a file made for it",
            f"{say_bytes(content['nbytes'])} in {say_count(content['files'], 'file')}",
            ", ".join([f"asked {when}, was {state}" for when, state in content["cache"].items() if when != state]),
            say_count(content["rounds"], "round"),
        ),
        facts=facts_of(content),
        verdicts=(*ratio_verdicts(content["ratios"], words), *spread_verdict(every)),
        charts=tuple(charts),
    )


def compare(result: Result, content: JsonObject) -> Section:
    """Show every loader over one model, warm and cold."""
    charts, every = timelines_of(content), []
    for when, side in content["sides"].items():
        bars = rate_bars(side["scores"], content["nbytes"])
        every += bars
        charts.append(
            _held(f"Page cache {side['cache']}" if when in side["cache"] else f"Asked {when}: {side['cache']}", bars)
        )
    whens = {when: f"page cache {when}" for when in content["sides"]}
    return Section(
        result=result,
        title="Every loader over one model",
        subject=subject(
            f"{say_bytes(content['nbytes'])} in {say_count(content['tensors'], 'tensor')}",
            f"to {content['device']}",
            say_count(content["rounds"], "round"),
        ),
        facts=facts_of(content),
        verdicts=(*ratio_verdicts(content["ratios"], whens), *spread_verdict(every)),
        charts=tuple(charts),
    )


def source(result: Result, content: JsonObject) -> Section:
    """Show streamload and other clients of a store."""
    nbytes, charts, every = content["nbytes"], timelines_of(content), []
    for when, title in (("idle", "From the store"), ("busy", "The same beside busy Python threads")):
        bars = rate_bars([_client(score, when) for score in content["scores"]], nbytes)
        if any(bar.value is not None for bar in bars):
            every += bars
            charts.append(_held(title, bars))
    ratios = content["ratios"]
    verdicts = [
        Verdict(f"{say_ratio(ratios[name])} ×", words, detail)
        for name, words, detail in (
            ("rate_to_raw_sockets", "of raw sockets' rate", "into place"),
            ("ring_rate_to_raw_sockets", "of raw sockets' rate", "through the ring"),
            ("rate_to_best_peer", "the best peer's rate", "into place"),
            ("cpu_to_best_peer", "the best peer's processor time", "less is better"),
        )
        if ratios.get(name) is not None
    ]
    return Section(
        result=result,
        title="Source: weights from an object store",
        subject=subject(
            content["url"],
            f"{say_bytes(nbytes)} in {say_count(content['objects'], 'object')}",
            say_count(content["connections"], "connection"),
            say_count(content["rounds"], "round"),
            "server on the same machine" if content["served_here"] else None,
        ),
        facts=facts_of(content),
        verdicts=(*verdicts, *spread_verdict(every)),
        charts=tuple(charts),
        tables=(_processor_time(content),),
    )


def vllm(result: Result, content: JsonObject) -> Section:
    """Show loaders within vLLM."""
    bars = [
        Bar(
            name=name,
            role="streamload" if name == "streamload" else "peer",
            value=loader["median_seconds"][when],
            rounds=[each["seconds"] for each in loader[when]],
            group=f"page cache {when}",
        )
        for when in ("warm", "cold")
        for name, loader in content["loaders"].items()
    ]
    bars += [Bar(name=name, role="peer", value=None, why=why) for name, why in content["cannot_run"].items()]
    shape = content["shape"]
    verdicts = []
    for when in ("warm", "cold"):
        took = {name: loader["median_seconds"][when] for name, loader in content["loaders"].items()}
        peers = [seconds for name, seconds in took.items() if name != "streamload"]
        if "streamload" in took and peers:
            ratio = min(peers) / took["streamload"]
            verdicts.append(Verdict(f"{say_ratio(ratio)} ×", "the best peer's rate", f"page cache {when}"))
    return Section(
        result=result,
        title="Loading weights in vLLM",
        subject=subject(
            f"{say_bytes(content['file_bytes'])} in {say_count(content['shards'], 'shard')}",
            f"{say_count(shape['layers'], 'layer')} of {shape['dtype']}",
            say_count(content["rounds"], "round"),
        ),
        facts=facts_of(content),
        verdicts=tuple(verdicts),
        charts=(*timelines_of(content), bar_chart("Seconds until all weights are loaded", _HOW, bars, "s")),
    )


def _held(title: str, bars: Sequence[Bar], more: Sequence[Bar] = ()) -> Chart:
    """Return rates held against the fastest ceiling among them, and among more that are not drawn."""
    rule = max([bar.value for bar in (*bars, *more) if bar.role == "ceiling" and bar.value is not None], default=None)
    note = f"{_HOW}The mark across bars is the ceiling: {say(rule, 'GB/s')}." if rule is not None else _HOW
    return bar_chart(title, note, bars, "GB/s", rule=rule)


def _of(figures: Sequence[JsonObject], target: str) -> list[JsonObject]:
    return [figure for figure in figures if figure["score"]["target"] == target]


def _figure_bars(figures: Sequence[JsonObject]) -> list[Bar]:
    return [
        Bar(
            name=figure["score"]["name"],
            role=figure["score"]["role"],
            value=figure["gigabytes_per_second"],
            rounds=rates(figure["nbytes"], figure["score"]["seconds"]),
            why=figure["score"].get("wrong") or figure["score"]["cannot_run"],
        )
        for figure in figures
    ]


def _client(score: JsonObject, when: str) -> dict[str, Any]:
    """Return one client's rounds as a score."""
    rounds = [each for each in score[when] if each["seconds"] is not None and not each["wrong"]]
    wrong = next((each["wrong"] for each in score[when] if each["wrong"]), "")
    why = score["cannot_run"] or next((each["cannot_run"] for each in score[when] if each["cannot_run"]), "")
    seconds = [each["seconds"] for each in rounds if not each["cannot_run"]]
    return {**score, "seconds": seconds, "wrong": wrong, "cannot_run": why}


def _processor_time(content: JsonObject) -> tuple[str, Table]:
    costs = content["cpu_seconds_per_gb"]
    rows = rows_of(*[(str(name), say(seconds, "s")) for name, seconds in costs.items()])
    least = f", {say(median(costs.values()), 's')} in the middle" if costs else ""
    return f"Processor time for 10⁹ bytes{least}", Table(("who", "of the whole process"), rows)
