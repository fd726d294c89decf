"""Start a server in a process of its own, wait until it answers, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_LEASH = Path(__file__).with_name("leash.py")
_START_SECONDS = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen]:
    """Run a server until the block ends; what it says goes into `log`.

    Raises:
        RuntimeError: It ended, or was not ready within a minute; the message holds the end of its log.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_LEASH), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until(ready, process, log)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    pause, ends = threading.Event(), time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > ends:
            said = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args[4]} is not ready (it returned {process.poll()}); it said:\n{said}")
        pause.wait(0.02)
