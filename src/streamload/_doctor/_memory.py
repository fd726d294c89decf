"""Memory: how much may be page-locked, huge pages, NUMA nodes.

Part of `_doctor`.
"""

from __future__ import annotations

import ctypes
import mmap
import resource
from typing import TYPE_CHECKING, Final

from .._units import say_bytes
from ._finding import Finding
from ._system import read_line, read_list, status_field

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["huge_pages", "locked_memory", "numa_nodes"]

_MOST_TRIED_BYTES: Final = 16 << 20  # locked for a moment, to see whether a limit holds; more might not be there


def locked_memory(wanted_bytes: int) -> Finding:
    """Compare the limit of locked memory with the staging memory of a load.

    The limit does not hold for who has CAP_IPC_LOCK outside of all user namespaces; a small one is tried, by locking a
    page more than it allows.

    Args:
        wanted_bytes: Staging memory, `StreamOptions.staging_bytes`.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    why = "io_uring reads faster into memory that is locked once; staging memory that stays pageable is copied slower"
    if limit == resource.RLIM_INFINITY:
        return Finding("locked memory", "ok", "no limit", why)
    found = f"{say_bytes(limit)} may be locked; staging takes up to {say_bytes(wanted_bytes)}"
    if limit >= wanted_bytes:
        return Finding("locked memory", "ok", found, why)
    if limit <= _MOST_TRIED_BYTES and _can_lock(limit + mmap.PAGESIZE):
        return Finding("locked memory", "ok", f"the limit of {say_bytes(limit)} does not hold for this process", why)
    fix = "ulimit -l unlimited; a container: --ulimit memlock=-1; a systemd unit: LimitMEMLOCK=infinity"
    return Finding("locked memory", "slow", found, why, fix)


def _can_lock(nbytes: int) -> bool:
    """Whether so much memory can be locked; it is let go at once (mlock(2))."""
    with mmap.mmap(-1, nbytes) as memory:
        start = ctypes.c_char.from_buffer(memory)
        status: int = ctypes.CDLL(None).mlock(ctypes.byref(start), ctypes.c_size_t(nbytes))
        del start  # or the mapping could not be closed
        return status == 0


def huge_pages(root: Path) -> Finding:
    """Look at transparent huge pages: the system's setting, and whether this process was left out."""
    why = "first touch of 4 KiB pages costs 0.5 to 0.9 s/GiB, of huge ones 0.1; page-locking them 20 times more"
    name = "huge pages"
    setting = root / "sys/kernel/mm/transparent_hugepage/enabled"
    modes = read_line(setting)
    if not modes:
        fix = "a kernel built with CONFIG_TRANSPARENT_HUGEPAGE; or nothing, where a sandbox hides the setting"
        return Finding(name, "unknown", "the kernel has no transparent huge pages, or does not show them", why, fix)
    chosen = modes.partition("[")[2].partition("]")[0] or modes
    if chosen == "never":
        fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        return Finding(name, "slow", "transparent huge pages are off (never)", why, fix)
    if status_field(root, "THP_enabled") == "0":
        fix = "start this process without prctl(PR_SET_THP_DISABLE)"
        return Finding(name, "slow", f"{chosen}, but switched off for this process", why, fix)
    return Finding(name, "ok", f"transparent huge pages: {chosen}", why)


def numa_nodes(root: Path, cpus: set[int], gpu_nodes: Sequence[int]) -> Finding:
    """Compare the NUMA nodes that this process runs on with those that its GPUs hang on.

    Args:
        root: Where `sys` is.
        cpus: The CPUs that this process may use.
        gpu_nodes: Node of each GPU; -1 where the system does not say.
    """
    why = "memory of another node is farther from the GPU, and from the threads that read into it"
    directories = sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
    nodes = {int(path.name.removeprefix("node")): read_list(read_line(path / "cpulist")) for path in directories}
    if not nodes:
        return Finding("NUMA", "unknown", "the system does not show its nodes", why)
    if len(nodes) == 1:
        return Finding("NUMA", "ok", "one node", why)
    ours = {node for node, members in nodes.items() if members & cpus}
    theirs = {node for node in gpu_nodes if node in nodes}
    found = f"{len(nodes)} nodes; this process runs on {_said(ours)}"
    if not gpu_nodes:
        return Finding("NUMA", "ok", found, why)
    if not theirs:
        fix = "nvidia-smi topo -m shows which CPUs are near the GPU"
        return Finding("NUMA", "unknown", f"{found}; where the GPUs are, the system does not say", why, fix)
    found += f", GPUs are on {_said(theirs)}"
    if ours <= theirs:
        return Finding("NUMA", "ok", found, why)
    node = min(theirs)
    return Finding("NUMA", "slow", found, why, f"numactl --cpunodebind={node} --preferred={node} COMMAND")


def _said(nodes: set[int]) -> str:
    return ", ".join(map(str, sorted(nodes))) or "none of them"
