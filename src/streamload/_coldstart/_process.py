"""When this process began, and how moments of the machine's clock become times of day.

Part of `_coldstart`. Every moment here is one of `time.monotonic()`, which on Linux is CLOCK_MONOTONIC: all processes
of a machine read the same value from it, so that a parent's moments and its child's can be put in one order.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["process_start", "unix_time"]


def process_start() -> float:
    """Return the moment at which the kernel made this process; up to a clock tick (usually 10 ms) too early.

    Field 22 of /proc/self/stat counts clock ticks on CLOCK_BOOTTIME (proc_pid_stat(5)), which differs from
    CLOCK_MONOTONIC by the time that the machine was suspended.
    """
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[19])  # the name before it may hold spaces and parentheses
    suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return ticks / os.sysconf("SC_CLK_TCK") - suspended


def unix_time(moment: float) -> float:
    """Return the Unix time of a moment, by the time of day as it is set now."""
    return time.time() - time.monotonic() + moment
