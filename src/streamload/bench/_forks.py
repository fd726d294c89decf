"""Start a process for each run from one that has imported what all of them need.

Floor 6; standard library only. Where every run has a process of its own, importing torch takes longer than most runs:
one process imports it, does nothing else, and forks for each. What a library does once in a process is done in each of
them all the same. Orders come to it as lines of JSON, one at a time, and so do its answers.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import traceback
import warnings
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from .._closing import Closing
from ._result import BenchError

__all__ = ["Forks"]


@dataclass(frozen=True, slots=True)
class _Order:
    """Say what a process is to do.

    Attributes:
        request: Text for the job. Never an argument of a process: everybody may read those, and there may be secrets
            in it.
        file: Where the result goes.
        said: Where what it prints goes.
        seconds: After which it is killed; None: never.
    """

    request: str
    file: str
    said: str
    seconds: float | None


class Forks(Closing):
    """Let a job run again and again, each time in a process of its own, one at a time; a context manager.

    Args:
        job: Module whose `main(request, file)` does what a request asks for, and writes what came of it to the file.
        imported: Module that is imported before any of them is started, the job's own where it is None.
    """

    def __init__(self, job: str, imported: str | None = None) -> None:
        command = [sys.executable, "-m", __name__, job, job if imported is None else imported]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._orders, self._answers = self._parent.stdin, self._parent.stdout

    def run(self, request: str, file: Path, seconds: float | None = None) -> str:
        """Let a new process do the job, wait for its end, and return the last line it printed, or how it ended.

        Args:
            request: What is asked for.
            file: Where the result goes; there is none if it failed.
            seconds: After which it is killed; None: never.

        Raises:
            BenchError: No process can be started any longer.
        """
        said = file.with_suffix(".said")
        order = _Order(request, str(file), str(said), seconds)
        try:
            self._orders.write(json.dumps(asdict(order)).encode() + b"\n")
            answer = self._answers.readline()
        except (BrokenPipeError, ValueError):  # it has ended, or was closed
            answer = b""
        if not answer:
            raise BenchError(f"the process that starts the others has ended with {self._parent.wait()}")
        code = json.loads(answer)
        if code is None:
            return f"it had not ended after {seconds or 0:.0f} s"
        lines = said.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {code} and said nothing"

    def close(self) -> None:
        """Start no more, and end what runs. Harmless when repeated."""
        self._orders.close()  # which the parent of all takes for the end
        self._parent.wait()
        self._answers.close()


def _serve(job: str, imported: str) -> None:
    """Fork for every order until there are no more; what runs then is killed, for nobody wants it any longer."""
    import_module(imported)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the benchmark has the words for it
    for line in sys.stdin.buffer:
        order = _Order(**json.loads(line))
        ends, holds = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 counts threads: those of numpy's BLAS, which sees to forks itself. There are no others.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(ends)
            _do(job, order)
        os.close(holds)  # the child's is the only one left: closed when it ends, however that is
        ready = select.select([ends, sys.stdin], [], [], order.seconds)[0]  # an order has the next one wait for its end
        os.close(ends)
        in_time = ends in ready
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        answer = os.waitstatus_to_exitcode(status) if in_time else None
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _do(job: str, order: _Order) -> NoReturn:
    """Do what one order says, with everything that is printed in its file, and end this process."""
    code = 1
    try:
        said = os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(here, there)
        import_module(job).main(order.request, Path(order.file))
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)  # the loop that forked it is not its own


if __name__ == "__main__":
    _serve(*sys.argv[1:])
