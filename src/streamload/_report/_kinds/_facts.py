"""What every result says alike: where it was measured, and ratios in words.

Part of `_report`; pure.
"""

from __future__ import annotations

import shlex
from statistics import median
from typing import TYPE_CHECKING, Final

from ..._units import say_bytes, say_count
from .._bars import Bar
from .._chart import Verdict
from .._say import say_percent, say_ratio, spread
from .._timeline import timeline_chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .._chart import Chart
    from .._result import JsonObject

__all__ = ["facts_of", "rate_bars", "rates", "ratio_verdicts", "spread_verdict", "subject", "timelines_of"]

_OTHERS: Final = {"_to_ceiling": "of the ceiling's rate", "_to_best_peer": "the best peer's rate"}


def subject(*parts: str | None) -> str:
    """Return what was measured in a line: the parts that are there."""
    return " · ".join([part for part in parts if part])


def facts_of(content: JsonObject) -> tuple[tuple[str, str], ...]:
    """Return where and how a result was measured, by name."""
    machine = content.get("machine") or {}
    command = content.get("command")
    memory = machine.get("memory_bytes")
    gpu = machine.get("gpu")
    found = [
        ("Machine", machine.get("processor")),
        ("Processors", None if machine.get("cpus") is None else str(machine["cpus"])),
        ("Memory", None if memory is None else say_bytes(memory)),
        ("GPU", None if gpu is None else f"{gpu}, driver {machine.get('gpu_driver')}"),
        ("System", machine.get("system") or machine.get("kernel")),
        ("Native build", machine.get("native_build")),
        ("Commit", machine.get("commit")),
        ("Python", machine.get("python")),
        ("Packages", ", ".join([f"{name} {version}" for name, version in (machine.get("versions") or {}).items()])),
        ("Command", shlex.join(command) if isinstance(command, list) else command),
    ]
    return tuple([(name, str(value)) for name, value in found if value])


def rates(nbytes: int, seconds: Sequence[float]) -> list[float]:
    """Return the rate of each round in 10^9 bytes a second."""
    return [nbytes / each / 1e9 for each in seconds if each]


def rate_bars(scores: Iterable[JsonObject], nbytes: int, *, group: str = "") -> list[Bar]:
    """Return the scores of a benchmark as bars of rates: ceilings, streamload, peers."""
    roles = ("ceiling", "streamload", "peer")
    bars = []
    for score in sorted(scores, key=lambda score: roles.index(score["role"])):
        seconds = score["seconds"]
        bars.append(
            Bar(
                name=score["name"],
                role=score["role"],
                value=nbytes / median(seconds) / 1e9 if seconds else None,
                rounds=rates(nbytes, seconds),
                group=group,
                why=f"wrong: {score['wrong']}" if score.get("wrong") else score.get("cannot_run") or "did not run",
            )
        )
    return bars


def ratio_verdicts(ratios: Mapping[str, float], words: Mapping[str, str]) -> list[Verdict]:
    """Return streamload's ratios as verdicts.

    Args:
        ratios: By name, such as "existing_to_ceiling".
        words: What the part before "_to_" stands for; others are left out.
    """
    found = []
    for ending, other in _OTHERS.items():
        for what, said in words.items():
            value = ratios.get(f"{what}{ending}")
            if value is not None:
                found.append(Verdict(f"{say_ratio(value)} ×", other, said))
    return found


def spread_verdict(bars: Iterable[Bar]) -> list[Verdict]:
    """Return how far streamload's rounds lie apart: the widest."""
    ours = [bar for bar in bars if bar.role == "streamload" and len(bar.rounds) > 1]
    if not ours:
        return []
    widest = max(ours, key=lambda bar: spread(bar.rounds))
    words = f"of {say_count(len(widest.rounds), 'round')}: {widest.name}"
    return [Verdict(say_percent(spread(widest.rounds)), "widest spread of streamload's", words)]


def timelines_of(content: JsonObject) -> list[Chart]:
    """Return the timelines of a result, if it has any, as one chart."""
    found = content.get("timelines")
    return [timeline_chart(found)] if found else []
