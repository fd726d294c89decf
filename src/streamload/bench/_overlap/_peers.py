"""Time streamload and its peers on one model, one token a pass.

Part of `bench._overlap`; needs torch. Each opens the model anew, computes a first token, then more passes. Outputs are
compared: a peer that computes over mapped files may differ in the last bits, for their addresses are not aligned.
"""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from .._result import BenchError
from .._rounds import CannotRun, reason
from ._cold import same_bits
from ._offloaders import offloaders
from ._passes import resident_pass
from ._result import PeerScore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._cold import ColdCourse
    from ._offloaders import Offloader

__all__ = ["run_peers"]

_PASSES = 3  # after the first, in each round; the first of them is not counted


@dataclass(slots=True)
class _Tally:
    """Gather one contestant's rounds."""

    first: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    output: str = ""
    cannot_run: str = ""


def run_peers(
    course: ColdCourse, repeat: int, most_seconds: float, progress: Callable[[], object] = lambda: None
) -> list[PeerScore]:
    """Run everyone `repeat` times, whoever comes first taking turns.

    Args:
        course: What is loaded, and the same module resident.
        repeat: Rounds.
        most_seconds: Whoever's turn comes later than this from now is not run again, or not at all, which is said.
        progress: Called after each run.

    Raises:
        BenchError: streamload gave another output.
    """
    course = replace(course, subject=replace(course.subject, tokens=1))
    expected = resident_pass(course.subject, course.place, course.resident).output
    everyone = offloaders()
    tallies = {one.name: _Tally() for one in everyone}
    ends = time.monotonic() + most_seconds
    for number in range(repeat):
        turn = number % len(everyone)
        for one in [*everyone[turn:], *everyone[:turn]]:
            tally = tallies[one.name]
            if time.monotonic() > ends and not tally.first and not tally.cannot_run:
                tally.cannot_run = f"the {most_seconds:.0f} s for peers were over"
            if time.monotonic() <= ends and not tally.cannot_run:
                _run(one, course, expected, tally)
            progress()
    return [_score(one, tallies[one.name], course) for one in everyone]


def _run(one: Offloader, course: ColdCourse, expected: torch.Tensor, tally: _Tally) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="streamload-peer-") as folder, _silence(), torch.no_grad():
            _time(one, course, expected, tally, Path(folder))
    except CannotRun as error:
        tally.cannot_run = str(error)
    except BenchError:
        raise
    except Exception as error:  # whatever a peer raises is the reason for its absence
        if one.role != "peer":
            raise
        tally.cannot_run = reason(error)


def _time(one: Offloader, course: ColdCourse, expected: torch.Tensor, tally: _Tally, folder: Path) -> None:
    subject, place = course.subject, course.place
    one.prepare(course, folder)
    place.settle(subject.nbytes)
    began = time.perf_counter()
    with one.open(course, folder) as module:
        outputs = [resident_pass(subject, place, module).output]
        first = time.perf_counter() - began
        passes = [resident_pass(subject, place, module) for _ in range(_PASSES)]
        outputs += [found.output for found in passes]
    if all(same_bits(output, expected) for output in outputs):
        tally.output = tally.output or "equal"
    elif one.role == "peer" and all(torch.allclose(output, expected, rtol=1e-2, atol=1e-2) for output in outputs):
        tally.output = "equal to rounding"
    elif one.role == "peer":
        raise CannotRun("its output is wrong")
    else:
        raise BenchError(f"{one.name} gave another output than the model loaded plainly")
    tally.first.append(first)
    tally.passes.append(median(found.seconds for found in passes[1:]))


def _score(one: Offloader, tally: _Tally, course: ColdCourse) -> PeerScore:
    return PeerScore(
        name=one.name,
        role=one.role,
        moves=one.moves,
        nbytes=course.subject.nbytes,
        first_token_seconds=tuple(tally.first),
        pass_seconds=tuple(tally.passes),
        output=tally.output,
        cannot_run=tally.cannot_run,
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep a peer's progress bars and warnings out of the table."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
