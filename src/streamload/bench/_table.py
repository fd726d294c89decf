"""Results as text: one table, its rows grouped by where the bytes go.

Floor 6; pure.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from .._units import say_bytes, say_count, say_rate, say_seconds
from ._figures import machine_line
from ._result import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._many_result import ManyTensorsBench
    from ._result import EngineBench, Score

__all__ = ["decisions", "engine_table", "many_tensors_table"]

_HEADINGS = {
    "existing": "into existing memory",
    "new": "into new memory",
    "ring": "through the ring into host-device memory",
    "drive": "from the drive, nothing kept",
}
_NAME_WIDTH = 52
_MANY_NAME, _MANY_COLUMNS = 48, {"rate": 11, "spread": 8}
_MANY_SIDE = sum(_MANY_COLUMNS.values())
_COLUMNS = {
    "rate": 10,
    "spread": 8,
    "/ceiling": 10,
    "ours/it": 9,
    "CPU s/GB": 10,
    "memory": 10,
    "pinned": 10,
    "1st byte": 10,
}


def engine_table(bench: EngineBench) -> str:
    """Return a benchmark as text."""
    lines = [
        f"{say_bytes(bench.nbytes)} in {say_count(bench.tensors, 'tensor')} to {bench.device}, page cache "
        f"{bench.cache}, {say_count(bench.rounds, 'round')}; medians",
        machine_line(bench.machine),
    ]
    head = "".join(f"{name:>{width}}" for name, width in _COLUMNS.items())
    for target, heading in _HEADINGS.items():
        scores = [score for score in bench.scores if score.target == target]
        if scores:
            lines += ["", f"{heading:<{_NAME_WIDTH}}{head}", *(_row(bench, score) for score in scores)]
    lines += ["", *decisions(bench.scores)]
    lines += [f"peers found {name}={text}" for name, text in bench.peer_settings.values.items()]
    if bench.fixed_cost_seconds:
        fixed = say_seconds(median(bench.fixed_cost_seconds))
        lines.append(f"fixed cost, from the call to the first bytes on the device, with a new engine: {fixed}")
    lines += ["", *(f"{name.replace('_', ' ')}: {value:.3f}" for name, value in bench.ratios().items())]
    return "\n".join(lines)


def many_tensors_table(bench: ManyTensorsBench) -> str:
    """Return a comparison of few and many tensors as text."""
    lines = [
        f"{say_bytes(bench.nbytes[0])} to {bench.device}, page cache {bench.cache}, "
        f"{say_count(bench.rounds, 'round')}; medians",
        machine_line(bench.machine),
        "",
        f"{'':<{_MANY_NAME}}" + "".join(f"{say_count(count, 'tensor'):>{_MANY_SIDE}}" for count in bench.tensors),
        f"{'':<{_MANY_NAME}}" + "".join(f"{name:>{width}}" for name, width in _MANY_COLUMNS.items()) * 2 + "   ratio",
        *map(partial(_many_row, bench), range(len(bench.few))),
        "",
        *(f"{name} to ceiling: {few:.3f} and {many:.3f}" for name, (few, many) in bench.ratios_to_ceiling().items()),
        *(f"{name}, many over few: {ratio:.3f}" for name, ratio in bench.ratios().items()),
        "other loaders over many tensors: streamload bench engine --tensors 20000",
        "",
    ]
    planning = bench.planning
    lines += [
        f"{say_count(planning.tensors, 'tensor')}: {planning.open_microseconds_per_tensor:.1f} µs each to open, "
        f"{planning.plan_microseconds_per_tensor:.1f} µs each to plan",
    ]
    return "\n".join(lines)


def _many_row(bench: ManyTensorsBench, number: int) -> str:
    sides = list(zip((bench.few[number], bench.many[number]), bench.nbytes, strict=True))
    name = sides[0][0].name.rpartition(", ")[0]
    cells = "".join(
        f"{say_rate(score.rate(nbytes)):>{_MANY_COLUMNS['rate']}}{f'{score.spread:.0%}':>{_MANY_COLUMNS['spread']}}"
        for score, nbytes in sides
    )
    few, many = (score.rate(nbytes) for score, nbytes in sides)
    return f"{f'{sides[0][0].role:<11}{name}':<{_MANY_NAME}}{cells}{many / few:>8.3f}"


def _row(bench: EngineBench, score: Score) -> str:
    title = f"{score.role:<11}{score.name}"
    if score.wrong:
        return f"{title:<{_NAME_WIDTH}}wrong: {score.wrong}"
    if not score.seconds:
        return f"{title:<{_NAME_WIDTH}}not run: {score.cannot_run}"
    rate = score.rate(bench.nbytes)
    ceiling = bench.ceiling(score.target) if score.target in TARGETS else None
    ours = bench.best("streamload", score.target) if score.role == "peer" else None
    pinned = None if score.stats is None else score.stats.get("pinned_bytes")
    cells = (
        say_rate(rate),
        f"{score.spread:.0%}",
        f"{rate / ceiling.rate(bench.nbytes):.3f}" if ceiling else "-",
        f"{ours.rate(bench.nbytes) / rate:.2f}" if ours else "-",
        f"{score.cpu_seconds_per_gb(bench.nbytes):.3f}",
        "-" if score.peak_memory_bytes is None else say_bytes(score.peak_memory_bytes),
        "-" if pinned is None else say_bytes(pinned),
        say_seconds(median(score.first_byte_seconds)) if score.first_byte_seconds else "-",
    )
    row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))
    return f"{title:<{_NAME_WIDTH}}{row}"


def decisions(scores: tuple[Score, ...]) -> Iterator[str]:
    """Say how streamload read, contestant by contestant: what is not there was nothing."""
    for score in scores:
        read = score.stats["bytes_read"] if score.stats is not None else 0
        if score.stats is None or not read:
            continue
        said = {
            "buffered": "buffered_bytes",
            "direct": "direct_bytes",
            "by io_uring": "uring_bytes",
            "in place": "in_place_bytes",
            "cached": "cached_bytes",
            "uncached": "uncached_bytes",
            "probed": "probed_bytes",
            "CACHED BUT DIRECT": "cached_direct_bytes",
            "UNCACHED BUT BUFFERED": "uncached_buffered_bytes",
        }
        parts = [f"{score.stats[key] / read:.0%} {word}" for word, key in said.items() if score.stats.get(key)]
        yield f"{score.name} read {', '.join(parts)}"
