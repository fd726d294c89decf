"""Limits of a container: memory that is left, CPUs.

Part of `_doctor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._machine import cpu_quota, memory_headroom_bytes, usable_cpus
from .._units import say_bytes, say_count
from ._finding import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from ..options import StreamOptions

__all__ = ["cpus", "memory"]

_HEADROOM_PART: Final = 4  # staging takes at most this part of what is left (`_engine._pool`)
_FEW_CPUS: Final = 2  # one computes, one reads
_ENOUGH_CPUS: Final = 9  # as many reading threads as a pool starts by itself (`_engine._pool`), and one that computes


def memory(root: Path, options: StreamOptions) -> Finding:
    """Compare the memory that is left with the staging memory of a load."""
    why = "staging memory, and weights loaded to the CPU, come from it; a process that takes more is killed"
    left = memory_headroom_bytes(root)
    if left is None:
        return Finding("memory", "unknown", "the system does not say what is left", why)
    found = f"{say_bytes(left)} left"
    fix = "raise the memory limit (docker --memory, Kubernetes resources.limits.memory), or end what else takes memory"
    if left < 2 * options.chunk_bytes:
        return Finding("memory", "wrong", f"{found}; a load needs {say_bytes(2 * options.chunk_bytes)}", why, fix)
    if left < _HEADROOM_PART * options.staging_bytes:
        most = max(2 * options.chunk_bytes, left // _HEADROOM_PART)
        found = f"{found}: staging is held to {say_bytes(most)} of {say_bytes(options.staging_bytes)}"
        return Finding("memory", "slow", found, why, fix)
    return Finding("memory", "ok", found, why)


def cpus(root: Path, usable: int | None = None) -> Finding:
    """Count the CPUs that threads may run on, and what control groups grant of their time.

    Args:
        root: Where `proc` and `sys` are.
        usable: How many there are; None asks the system.
    """
    why = "threads read, copy and check beside the one that computes; a spent quota stops them all for up to 100 ms"
    count = usable_cpus() if usable is None else usable
    quota = cpu_quota(root)
    found = say_count(count, "CPU")
    fix = "raise the limit (docker --cpus, Kubernetes resources.limits.cpu)"
    if quota is not None:
        found = f"{found}, a quota of {quota:.3g}"
        if quota < min(count, _ENOUGH_CPUS):
            return Finding("CPUs", "slow", found, why, f"{fix}, or StreamOptions(read_threads={max(1, int(quota))})")
    return Finding("CPUs", "slow" if count < _FEW_CPUS else "ok", found, why, fix if count < _FEW_CPUS else "")
