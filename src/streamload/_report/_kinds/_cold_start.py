"""Reports of cold starts: phases, moments, loads.

Part of `_report`; pure.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..._units import say_bytes, say_rate
from .._chart import Section, Table, Verdict, rows_of
from .._phases import Stretch, phase_chart
from .._say import say
from ._facts import facts_of, subject, timelines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._result import JsonObject, Result

__all__ = ["cold_start"]


def cold_start(result: Result, content: JsonObject) -> Section:
    """Show where a process's start went."""
    phases = content["phases"]
    rows = {
        name: [Stretch(each["start"], each["end"], each["detail"] or name) for each in phases if each["name"] == name]
        for name in content["totals"]
    }
    longest = max(content["totals"].items(), key=lambda one: one[1], default=None)
    verdicts = [Verdict(say(content["seconds"], "s"), "from the process's start to the last moment known")]
    if content["wall_seconds"] is not None:
        verdicts.append(Verdict(say(content["wall_seconds"], "s"), "measured from outside"))
    if longest is not None:
        verdicts.append(Verdict(say(longest[1], "s"), "the longest phase", longest[0]))
    reached = content["reached"]
    if "first_token" in reached:
        verdicts.append(Verdict(say(reached["first_token"], "s"), "until the first token"))
    began = datetime.fromtimestamp(content["started"], tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    moments = Table(
        ("moment", "since the process began"), tuple([(name, say(at, "s")) for name, at in reached.items()])
    )
    note = (
        "Phases have no gaps and do not overlap: they add up to the whole. Each bar stands where it was on the clock."
    )
    return Section(
        result=result,
        title="Cold start: where it went",
        subject=subject(
            f"began {began}",
            *[f"{load['name']}: {say_bytes(load['stats']['bytes_total'])}" for load in content["loads"]],
        ),
        facts=facts_of(content),
        verdicts=tuple(verdicts),
        charts=(*timelines_of(content), phase_chart("Phases", note, rows)),
        tables=(("Moments", moments), *_loads(content["loads"])),
    )


def _loads(loads: Sequence[JsonObject]) -> list[tuple[str, Table]]:
    found = []
    for load in loads:
        stats = load["stats"]
        rows = rows_of(
            ("weights asked for", say(load["submitted"], "s")),
            ("first byte", say(load["first_byte"], "s")),
            ("all resident", say(load["all_resident"], "s")),
            ("bytes", say_bytes(stats["bytes_total"])),
            ("mean rate", say_rate(load["bytes_per_second"])),
            ("waited for by computing", say(stats["stall_seconds"], "s")),
            ("from caches", say_bytes(load["cache_hit_bytes"])),
            *[(f"{layer} resident", say(at, "s")) for layer, at in load["layers"].items()],
        )
        found.append((f"Load of {load['name']}", Table(("what", "figure"), rows)))
    return found
