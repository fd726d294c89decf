"""Start a process for each transfer from one that has torch imported: `python -m streamload.bench._source._forks`.

Part of `bench._source`; needs torch. Every transfer has a process of its own, and importing torch takes many times as
long as most transfers: one process imports it, does nothing else, and forks for each. What a client does once in a
process is done in each of them all the same. Requests come as lines of JSON, one at a time, and so do the answers.
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

from ..._closing import Closing
from .._result import BenchError
from ._process import main

__all__ = ["Forks"]


@dataclass(frozen=True, slots=True)
class _Order:
    """Say what a process is to do.

    Attributes:
        request: A `TransferRequest` as JSON. Never an argument of a process: everybody may read those, and there are
            secrets in it.
        file: Where the result goes.
        said: Where what it prints goes.
        seconds: After which it is killed.
    """

    request: str
    file: str
    said: str
    seconds: float


class Forks(Closing):
    """Let transfers run, each in a process of its own, one at a time; a context manager."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._orders, self._answers = self._parent.stdin, self._parent.stdout

    def run(self, request: str, file: Path, seconds: float) -> str:
        """Let a new process do a transfer, wait for its end, and return the last line it printed, or how it ended.

        Args:
            request: As JSON.
            file: Where the result goes; there is none if it failed.
            seconds: After which it is killed.

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
            raise BenchError(f"the process that starts transfers has ended with {self._parent.wait()}")
        code = json.loads(answer)
        if code is None:
            return f"it had not ended after {seconds:.0f} s"
        lines = said.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {code} and said nothing"

    def close(self) -> None:
        """Start no more, and end what runs. Harmless when repeated."""
        self._orders.close()  # which the parent of all takes for the end
        self._parent.wait()
        self._answers.close()


def _serve() -> None:
    """Fork for every order until there are no more; what runs then is killed, for nobody wants it any longer."""
    import_module("._clients._ours", __package__)  # torch and all that streamload's own clients import
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
            _transfer(order)
        os.close(holds)  # the child's is the only one left: closed when it ends, however that is
        ready = select.select([ends, sys.stdin], [], [], order.seconds)[0]  # an order has the next one wait for its end
        os.close(ends)
        in_time = ends in ready
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        answer = os.waitstatus_to_exitcode(status) if in_time else None
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _transfer(order: _Order) -> NoReturn:
    """Do what one order says, with everything that is printed in its file, and end this process."""
    code = 1
    try:
        said = os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(here, there)
        main(order.request, Path(order.file))
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)  # the loop that forked it is not its own


if __name__ == "__main__":
    _serve()
