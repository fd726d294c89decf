"""Start a Python program to be measured, and follow its reports.

Part of `_coldstart`. The program runs in the interpreter that its command names, below `_child`; its input, output and
exit status are its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from .._trace import Trace
from ._report import ColdStartReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

__all__ = ["Outcome", "measured_command", "run_measured"]

_CHILD: Final = "streamload._coldstart._child"
_PYTHON: Final = re.compile(r"python(\d+(\.\d+)*)?")
_LAST_REPORT_SECONDS: Final = 5.0  # for what a program that has ended left in the pipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """Hold what a measured program came to.

    Attributes:
        report: The last report up to which it was measured; None where none came.
        status: How it ended: its exit status, or the negative number of the signal.
    """

    report: ColdStartReport | None
    status: int


def run_measured(
    command: Sequence[str],
    *,
    over: Callable[[ColdStartReport], bool],
    then: Callable[[ColdStartReport], bool],
    traces: bool = False,
) -> Outcome:
    """Run a program until it ends; signals that ask this process to end are passed on to it.

    Args:
        command: A Python program as it is started: `python [options] script.py …`, `python -m module …`, or a
            script whose first line names Python.
        over: Whether a report shows the whole start.
        then: Called once with the first such report, or with the last one of a program that has ended; whether the
            program is to be ended then. In a thread.
        traces: Whether reports have traces.

    Raises:
        FileNotFoundError: There is no such program.
        ValueError: It is no Python program, or the command runs none.
        OSError: Whatever `then` raised.
    """
    began, process, pipe = _start(command, traces=traces)
    reports: list[ColdStartReport] = []
    failures: list[OSError] = []
    traced: dict[str, Trace] = {}
    done = threading.Event()

    def follow() -> None:
        with pipe:
            for line in pipe:
                came = time.monotonic() - began
                if done.is_set():
                    continue  # what comes later is read for the sake of who writes it
                reports[:] = [replace(_report(line, traced), wall_seconds=came)]
                if over(reports[0]):
                    done.set()
                    try:
                        ends = then(reports[0])
                    except OSError as error:  # the caller's thread raises it, once the program has ended
                        failures.append(error)
                        continue
                    if ends:
                        process.terminate()

    follower = threading.Thread(target=follow, name="coldstart-follow", daemon=True)
    with _signals_passed_on(process):
        follower.start()
        status = process.wait()
    follower.join(_LAST_REPORT_SECONDS)  # something that the program left behind may hold the pipe open
    if failures:
        raise failures[0]
    if reports and not done.is_set():
        then(reports[0])
    return Outcome(reports[0] if reports else None, status)


def _start(command: Sequence[str], *, traces: bool) -> tuple[float, subprocess.Popen[bytes], IO[bytes]]:
    """Return when the program was started, the program, and where its reports come from."""
    reading, writing = os.pipe()
    pipe = os.fdopen(reading, "rb")
    try:
        measured = measured_command(command, writing, traces=traces)
        began = time.monotonic()
        return began, subprocess.Popen(measured, pass_fds=[writing]), pipe
    except BaseException:
        pipe.close()
        raise
    finally:
        os.close(writing)


def _report(line: bytes, traced: dict[str, Trace]) -> ColdStartReport:
    """Return the report of a line, with the traces that came so far, to which this adds the line's."""
    content = json.loads(line)
    traced.update({name: Trace.from_dict(trace) for name, trace in content["traces"].items()})
    return replace(ColdStartReport.from_dict(content), traces=traced)


def measured_command(command: Sequence[str], pipe: int, *, traces: bool = False) -> list[str]:
    """Return the command that runs a program below `_child`.

    Args:
        command: As `run_measured` takes it.
        pipe: The descriptor that reports go to.
        traces: Whether they have traces.

    Raises:
        FileNotFoundError, ValueError: As `run_measured`.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    below = ["-m", _CHILD, str(pipe), "traces" if traces else "no-traces"]
    if _PYTHON.fullmatch(Path(program).name) is None:
        return [*_interpreter(program), *below, "script", program, *command[1:]]
    options, kind, rest = _split(command[1:])
    if not rest:
        raise ValueError(f"{command[0]}: name a script or -m MODULE to run")
    return [program, *options, *below, kind, *rest]


def _split(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Return the interpreter's options, what kind of program follows, and the program with its arguments."""
    options: list[str] = []
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word.startswith("--"):
            options.append(word)
            if word == "--check-hash-based-pycs":
                options += left[:1]
                del left[:1]
            continue
        taking = re.search(r"[mcWX]", word[1:])  # the first letter that takes a value ends a cluster of letters
        if taking is None:
            options.append(word)
            continue
        letter, at = taking[0], taking.start() + 1
        value = [word[at + 1 :]] if word[at + 1 :] else left[:1]
        if not word[at + 1 :]:
            del left[:1]
        if at > 1:
            options.append(word[:at])
        if letter in "mc":
            return options, "module" if letter == "m" else "code", [*value, *left] if value else []
        options += [f"-{letter}", *value]
    return options, "script", left


def _interpreter(program: str) -> list[str]:
    """Return the Python that a script's first line names, with its options.

    Raises:
        ValueError: It names none.
    """
    with Path(program).open("rb") as file:
        first = file.readline(4096).decode(errors="replace")
    words = first[2:].split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    if not words or _PYTHON.fullmatch(Path(words[0]).name) is None:
        raise ValueError(f"{program}: only Python programs can be measured; start it as python -m …")
    return words


@contextmanager
def _signals_passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on; SIGINT comes from a terminal to both, and this process stays to tell what was measured."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
