"""A rate with what it is a rate of: the size of each request and how many are in flight; and a table of them.

Floor 6; pure. What `bench link` and `bench storage` are made of.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING

from .._units import say_bytes, say_rate, say_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .._machine import MachineFacts
    from ._result import Score
    from ._rounds import Contestant

__all__ = ["Figure", "Way", "best", "dicts_of", "figures_table", "left_out_lines", "machine_line", "ratios_of"]

_NAME_WIDTH = 40
_COLUMNS = {"request": 10, "flight": 7, "rate": 11, "spread": 8, "/ceiling": 9, "ours/it": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Hold what one way to move bytes did, at one size and depth.

    Attributes:
        score: Who, and the seconds of each round. Its target is what the figure is a figure of, and is compared
            within: "copies", "single", "pageable" or "pinning" of the link, "direct", "buffered" or "cached" of the
            drive, "bucket" or "first byte" of a store.
        nbytes: Bytes that one round moved.
        request_bytes: Length of one copy or read, the last one's aside.
        in_flight: How many at once; 0: as many as streamload takes by itself.
    """

    score: Score
    nbytes: int
    request_bytes: int
    in_flight: int

    @property
    def target(self) -> str:
        """What it is a figure of."""
        return self.score.target

    @property
    def rate(self) -> float | None:
        """The median rate in bytes a second; None where it did not run."""
        return self.score.rate(self.nbytes) if self.score.seconds else None


@dataclass(frozen=True, slots=True)
class Way:
    """Name a contestant, with what its figure tells beside its score; see `Figure`."""

    contestant: Contestant
    nbytes: int
    request_bytes: int
    in_flight: int

    def figure(self, score: Score) -> Figure:
        """Return the contestant's figure."""
        return Figure(score=score, nbytes=self.nbytes, request_bytes=self.request_bytes, in_flight=self.in_flight)


def best(figures: Sequence[Figure], role: str, *targets: str) -> Figure | None:
    """Return the fastest of a role within targets; None where none ran."""
    ran = [each for each in figures if each.score.role == role and each.target in targets and each.rate]
    return max(ran, key=lambda each: each.rate or 0.0, default=None)


def ratios_of(figures: Sequence[Figure], ceilings: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return streamload's best rate over the ceiling's and over the best peer's, for each target.

    Args:
        figures: All of them.
        ceilings: For each target, the targets among whose ceilings the fastest is its ceiling.
    """
    found: dict[str, float] = {}
    for target, among in ceilings.items():
        ours = best(figures, "streamload", target)
        ceiling, peer = best(figures, "ceiling", *among), best(figures, "peer", target)
        for other, figure in (("ceiling", ceiling), ("best_peer", peer)):
            if ours is not None and figure is not None:
                found[f"{target.replace(' ', '_')}_to_{other}"] = (ours.rate or 0.0) / (figure.rate or 1.0)
    return found


def dicts_of(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """Return figures as JSON can hold them, rates and spreads among them."""
    return [
        {
            **asdict(each),
            "median_seconds": median(each.score.seconds) if each.score.seconds else None,
            "gigabytes_per_second": None if each.rate is None else each.rate / 1e9,
            "spread": each.score.spread if each.score.seconds else None,
        }
        for each in figures
    ]


def figures_table(
    figures: Sequence[Figure], headings: Mapping[str, str], ceilings: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield the lines of a table, grouped by target, within 100 columns.

    Args:
        figures: All of them.
        headings: A line above each target's figures.
        ceilings: As `ratios_of` takes them.
    """
    head = "".join(f"{name:>{width}}" for name, width in _COLUMNS.items())
    for target, heading in headings.items():
        rows = [each for each in figures if each.target == target]
        if not rows:
            continue
        yield ""
        if len(heading) <= _NAME_WIDTH:
            yield f"{heading:<{_NAME_WIDTH}}{head}"
        else:
            yield from (heading, f"{'':<{_NAME_WIDTH}}{head}")
        ceiling, ours = best(figures, "ceiling", *ceilings.get(target, ())), best(figures, "streamload", target)
        yield from (_row(each, ceiling, ours) for each in rows)


def _row(figure: Figure, ceiling: Figure | None, ours: Figure | None) -> str:
    score = figure.score
    title = f"{score.role:<11}{score.name.partition(',')[0]}"
    request = say_bytes(figure.request_bytes)
    flight = str(figure.in_flight) if figure.in_flight else "adapts"
    if figure.rate is None:
        why = f"wrong: {score.wrong}" if score.wrong else f"not run: {score.cannot_run}"
        return f"{title:<{_NAME_WIDTH}}{request:>10}{flight:>7}  {why}"[:100]
    timed = figure.target in ("first byte", "pinning")
    cells = (
        request,
        flight,
        _cost(figure) if timed else say_rate(figure.rate),
        f"{score.spread:.0%}",
        "-" if ceiling is None else f"{figure.rate / (ceiling.rate or 1.0):.3f}",
        "-" if ours is None or score.role != "peer" else f"{(ours.rate or 0.0) / figure.rate:.2f}",
    )
    return f"{title:<{_NAME_WIDTH}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, _COLUMNS.values(), strict=True))


def _cost(figure: Figure) -> str:
    seconds = median(figure.score.seconds)
    if figure.target == "first byte":
        return say_seconds(seconds)
    return f"{seconds / (figure.nbytes / 1e9):.3f} s/GB"


def left_out_lines(left_out: Sequence[str]) -> Iterator[str]:
    """Yield what is said of a run that was not thorough; nothing of one that was."""
    if left_out:
        yield ""
        yield from wrap(f"a short run: {'; '.join(left_out)}. --thorough measures all of it", 100)


def machine_line(machine: MachineFacts) -> str:
    """Say in a line where it was measured."""
    memory = "" if machine.memory_bytes is None else f", {say_bytes(machine.memory_bytes)}"
    gpu = "" if machine.gpu is None else f"; {machine.gpu}, driver {machine.gpu_driver}"
    return f"{machine.processor}, {machine.cpus} CPUs{memory}, {machine.system}{gpu}"
