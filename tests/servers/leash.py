"""Run a command that ends with its parent, however that ends: `python leash.py COMMAND …` (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def hold() -> None:
    """Have the kernel kill this process when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    parent = int(sys.argv[1])
    hold()
    if os.getppid() != parent:
        sys.exit("the parent is gone already")
    os.execvp(sys.argv[2], sys.argv[2:])
