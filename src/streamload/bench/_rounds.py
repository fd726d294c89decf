"""Time contestants: each once a round, in an order that turns.

Floor 6; torch is used only to wait for a GPU.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._machine import peak_rss_bytes, reset_peak_rss, rss_bytes
from ._result import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Contestant", "run_rounds"]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Name a way to move all the bytes, and how to do it once.

    Attributes:
        name: What it is.
        role: "ceiling", "streamload" or "peer".
        target: "existing" or "new" memory.
        run: Moves everything; what it returns is kept until the clock has stopped. Raises `CannotRun`.
        pinned_bytes: Says what the engine holds page-locked, after a run.
        seconds_of: Reads the time off what `run` returned; None takes the clock's.
    """

    name: str
    role: str
    target: str
    run: Callable[[], object]
    pinned_bytes: Callable[[], int] | None = None
    seconds_of: Callable[[object], float] | None = None


class CannotRun(Exception):
    """Say why a contestant does not take part."""


@dataclass(slots=True)
class _Tally:
    """Gather one contestant's rounds."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    pinned_bytes: list[int] = field(default_factory=list)
    cannot_run: str = ""


def run_rounds(
    contestants: Sequence[Contestant],
    repeat: int,
    *,
    prepare: Callable[[], None],
    synchronize: Callable[[], None],
    progress: Callable[[], object],
) -> list[Score]:
    """Run every contestant `repeat` times and return their scores, in the order given.

    Args:
        contestants: Who takes part.
        repeat: Rounds.
        prepare: Called before each run, outside the clock.
        synchronize: Waits for the device, inside the clock.
        progress: Called after each run.
    """
    tallies = {contestant.name: _Tally() for contestant in contestants}
    for number in range(repeat):
        turn = number % len(contestants)
        for contestant in [*contestants[turn:], *contestants[:turn]]:
            tally = tallies[contestant.name]
            if not tally.cannot_run:
                prepare()
                _run_once(contestant, tally, synchronize)
            progress()
    return [_score(contestant, tallies[contestant.name]) for contestant in contestants]


def _run_once(contestant: Contestant, tally: _Tally, synchronize: Callable[[], None]) -> None:
    gc.collect()
    synchronize()
    before = rss_bytes() if reset_peak_rss() else None
    cpu, began = time.process_time(), time.perf_counter()
    try:
        kept = contestant.run()
    except CannotRun as error:
        tally.cannot_run = str(error)
        return
    synchronize()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    peak = peak_rss_bytes()
    tally.seconds.append(seconds if contestant.seconds_of is None else contestant.seconds_of(kept))
    tally.cpu_seconds.append(cpu_seconds)
    if before is not None and peak is not None:
        tally.rss_bytes.append(max(peak - before, 0))
    if contestant.pinned_bytes is not None:
        tally.pinned_bytes.append(contestant.pinned_bytes())


def _score(contestant: Contestant, tally: _Tally) -> Score:
    return Score(
        name=contestant.name,
        role=contestant.role,
        target=contestant.target,
        seconds=tuple(tally.seconds),
        cpu_seconds=tuple(tally.cpu_seconds),
        peak_rss_bytes=max(tally.rss_bytes, default=None),
        pinned_bytes=max(tally.pinned_bytes, default=None),
        cannot_run=tally.cannot_run,
    )
