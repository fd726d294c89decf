"""Time contestants: each once a round, in an order that turns.

Floor 6; torch is named only for types. Before the first round everyone runs once without a clock: then bytes are
compared and memory is watched, and what is paid only once (imports, converted files, thread pools) is paid.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from ._memory import MemoryWatch
from ._result import BenchError, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from .._engine import LoadStats

__all__ = ["CannotRun", "Conditions", "Contestant", "Outcome", "reason", "run_rounds"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what one run leaves.

    Attributes:
        tensors: What came out, by name; None when nothing of the checkpoint did.
        stats: What streamload's engine says of the load.
        seconds: Time the contestant measured by itself; None takes the clock's.
    """

    tensors: Mapping[str, torch.Tensor] | None = None
    stats: LoadStats | None = None
    seconds: float | None = None


class Judge(Protocol):
    """Compares what came out with what should have."""

    def scramble(self) -> None:
        """Overwrite existing memory, so that bytes left by one contestant cannot pass for another's."""

    def find_wrong(self, outcome: Outcome) -> str:
        """Say what is wrong with an outcome's bytes, or nothing."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Name a way to move all the bytes, and how to do it once.

    Attributes:
        name: What it is.
        role: "ceiling", "streamload" or "peer".
        target: What it moves the bytes into; see `Score`.
        get_ready: Does what is outside the clock, and returns what moves everything once. A peer may raise anything
            in both, others `CannotRun`.
        judge: Who compares the bytes; None: nobody.
        prepare: Called before each of its runs, outside the clock, and before what surrounds every run: what brings a
            file into the page cache takes memory.
        takes_memory: Whether a run takes memory of the system, be it for the page cache. False for what reads a drive
            straight into memory that is there.
    """

    name: str
    role: str
    target: str
    get_ready: Callable[[], Callable[[], Outcome]]
    judge: Judge | None = None
    prepare: Callable[[], object] = lambda: None
    takes_memory: bool = True


@dataclass(frozen=True, slots=True)
class Conditions:
    """Say what surrounds each run.

    Attributes:
        begin: Called once everyone has run without a clock.
        prepare: Called before each run, outside the clock.
        synchronize: Waits for the device, inside the clock.
        clear: Called after each run with a clock, once what it left is gone.
        progress: Called after each run.
    """

    begin: Callable[[], object] = lambda: None
    prepare: Callable[[], object] = lambda: None
    synchronize: Callable[[], object] = lambda: None
    clear: Callable[[], object] = lambda: None
    progress: Callable[[], object] = lambda: None


class CannotRun(Exception):
    """Say why a contestant does not take part."""


class _ComesOutWrong(Exception):
    """Say what is wrong with a peer's bytes."""


@dataclass(slots=True)
class _Tally:
    """Gather one contestant's rounds."""

    run: Callable[[], Outcome] | None = None
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    first_byte_seconds: list[float] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    stats: LoadStats | None = None
    cannot_run: str = ""
    wrong: str = ""


def run_rounds(contestants: Sequence[Contestant], repeat: int, conditions: Conditions) -> list[Score]:
    """Run every contestant once to compare its bytes, then `repeat` times, and return their scores in the order given.

    Raises:
        BenchError: The bytes of a contestant that is no peer came out wrong.
    """
    tallies = {contestant.name: _Tally() for contestant in contestants}
    if len(tallies) < len(contestants):
        raise ValueError("two contestants have one name")
    for contestant in contestants:
        _try_to(_run_first, contestant, tallies[contestant.name], conditions)
        conditions.progress()
    conditions.begin()
    for number in range(repeat):
        turn = number % len(contestants)
        for contestant in [*contestants[turn:], *contestants[:turn]]:
            tally = tallies[contestant.name]
            if not (tally.cannot_run or tally.wrong):
                _try_to(_run_timed, contestant, tally, conditions)
                conditions.clear()
            conditions.progress()
    return [_score(contestant, tallies[contestant.name]) for contestant in contestants]


def _try_to(
    run: Callable[[Contestant, _Tally, Conditions], None], contestant: Contestant, tally: _Tally, conditions: Conditions
) -> None:
    try:
        run(contestant, tally, conditions)
    except CannotRun as error:
        tally.cannot_run = str(error)
    except _ComesOutWrong as error:
        tally.wrong = str(error)


def _run_first(contestant: Contestant, tally: _Tally, conditions: Conditions) -> None:
    tally.run = run = _attempt(contestant, contestant.get_ready)
    if contestant.judge is not None:
        contestant.judge.scramble()
    contestant.prepare()
    conditions.prepare()
    conditions.synchronize()
    with MemoryWatch() as watch:
        outcome = _attempt(contestant, run)
        conditions.synchronize()
    tally.peak_memory_bytes = watch.peak_bytes
    wrong = "" if contestant.judge is None else contestant.judge.find_wrong(outcome)
    if wrong and contestant.role == "peer":
        raise _ComesOutWrong(wrong)
    if wrong:
        raise BenchError(f"{contestant.name}: {wrong}; no rate is worth that")


def _run_timed(contestant: Contestant, tally: _Tally, conditions: Conditions) -> None:
    assert tally.run is not None
    contestant.prepare()
    conditions.prepare()
    conditions.synchronize()
    cpu, began = time.process_time(), time.perf_counter()
    outcome = _attempt(contestant, tally.run)
    conditions.synchronize()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    tally.seconds.append(seconds if outcome.seconds is None else outcome.seconds)
    tally.cpu_seconds.append(cpu_seconds)
    if outcome.stats is not None:
        tally.stats = outcome.stats
        # Counted from the call: what came before the submission is in the clock's time alone.
        tally.first_byte_seconds.append(seconds - outcome.stats.seconds + outcome.stats.first_byte_seconds)


def _attempt(contestant: Contestant, step: Callable[[], T]) -> T:
    """Take a step; whatever a peer raises becomes the reason for its absence."""
    try:
        return step()
    except CannotRun:
        raise
    except Exception as error:
        if contestant.role != "peer":
            raise
        raise CannotRun(reason(error)) from error


def reason(error: Exception) -> str:
    """Say in a line why a peer does not take part, by what it raised."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.160}"


def _score(contestant: Contestant, tally: _Tally) -> Score:
    ran = not (tally.cannot_run or tally.wrong)
    return Score(
        name=contestant.name,
        role=contestant.role,
        target=contestant.target,
        seconds=tuple(tally.seconds) if ran else (),
        cpu_seconds=tuple(tally.cpu_seconds) if ran else (),
        peak_memory_bytes=tally.peak_memory_bytes if ran else None,
        first_byte_seconds=tuple(tally.first_byte_seconds),
        stats=None if tally.stats is None else asdict(tally.stats),
        cannot_run=tally.cannot_run,
        wrong=tally.wrong,
    )
