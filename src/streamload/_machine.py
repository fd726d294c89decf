"""What machine this is, and which of a file's bytes its page cache holds.

Floor 1; stdlib only. A result without these facts says little: benchmarks and the demo write them beside
every figure. Linux gives most of them; elsewhere a fact that cannot be had is None.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MachineFacts",
    "cached_fraction",
    "cpu_quota",
    "drop_from_cache",
    "machine_facts",
    "memory_headroom_bytes",
    "peak_bytes",
    "private_bytes",
    "restart_peak",
    "usable_cpus",
]

_CACHESTAT = 451  # the same number on every architecture: include/uapi/asm-generic/unistd.h, Linux 6.5
_VERSIONS = (
    *("torch", "safetensors", "numpy", "transformers", "nanobind"),
    *("fastsafetensors", "runai-model-streamer", "tensorizer", "instanttensor"),  # the benchmarks' peers
    *("accelerate", "diffusers", "boto3", "s3fs", "obstore", "awscrt", "s3torchconnector"),
)


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Describe where a result was measured.

    Attributes:
        system: Kernel name and release.
        processor: The processor's name.
        cpus: CPUs this process may use.
        memory_bytes: Physical memory; None where unknown.
        python: Version of the interpreter.
        streamload: Version of this package, or None when it is not installed.
        native_build: Build type of the native core, such as "Release".
        commit: The repository's commit, with "+changes" when files differ from it; None outside a repository.
        versions: Of the packages that matter and are installed.
        gpu: Name of the GPU, or None.
        gpu_driver: Version of its driver, or None.
    """

    system: str
    processor: str
    cpus: int
    memory_bytes: int | None
    python: str
    streamload: str | None
    native_build: str | None
    commit: str | None
    versions: dict[str, str]
    gpu: str | None
    gpu_driver: str | None

    def as_dict(self) -> dict[str, object]:
        """Return the facts as a mapping that JSON can hold."""
        return asdict(self)


def machine_facts(*, native_build: str | None = None) -> MachineFacts:
    """Gather the facts of this machine and process.

    Args:
        native_build: Build type of the native core, where the caller has it.
    """
    gpu, driver = _gpu()
    return MachineFacts(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cpus=usable_cpus(),
        memory_bytes=_memory_bytes(),
        python=platform.python_version(),
        streamload=_version("streamload"),
        native_build=native_build,
        commit=_commit(Path(__file__).parent),
        versions={name: version for name in _VERSIONS if (version := _version(name)) is not None},
        gpu=gpu,
        gpu_driver=driver,
    )


def usable_cpus() -> int:
    """Count the CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system can restrict a process to some CPUs
        return os.cpu_count() or 1


def cached_fraction(path: Path, most: int | None = None) -> float | None:
    """Return which part of a file the page cache holds, from 0 to 1; None where the kernel will not say.

    Asks `cachestat(2)` (Linux 6.5 and newer; some sandboxes refuse it). Not `mincore`, which answers
    "resident" to anyone who does not own the file.

    Args:
        path: The file.
        most: Ask about its first so many bytes only.
    """
    if sys.platform != "linux":
        return None
    size = path.stat().st_size
    nbytes = size if most is None else min(size, most)
    if nbytes == 0:
        return 1.0
    wanted = (ctypes.c_uint64 * 2)(0, nbytes)
    counts = (ctypes.c_uint64 * 5)()
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    with path.open("rb") as file:
        status: int = system_call(
            ctypes.c_long(_CACHESTAT), ctypes.c_uint(file.fileno()), wanted, counts, ctypes.c_uint(0)
        )
    if status != 0:
        return None
    pages = -(-nbytes // os.sysconf("SC_PAGE_SIZE"))
    return min(1.0, counts[0] / pages)


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget a file's cached pages; written pages are flushed first.

    A request, not a promise: check `cached_fraction` afterwards.

    Raises:
        OSError: The file cannot be opened or flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if sys.platform == "linux":
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def memory_headroom_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory this process may still take: what its control groups leave, or the system has; or None.

    Page cache counts as free: the kernel gives it up before it refuses memory. Both versions of control groups are
    read where they are mounted in the usual place.

    Args:
        root: Where `proc` and `sys` are.
    """
    directories = _memory_groups(root / "sys/fs/cgroup", root / "proc/self/cgroup")
    groups = [headroom for directory in directories if (headroom := _group_headroom(directory)) is not None]
    return min([*groups, *_available_bytes(root)], default=None)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return how many CPUs' worth of time this process's control groups grant it; None where they set no limit.

    Args:
        root: Where `proc` and `sys` are.
    """
    directories = _groups("cpu", root / "sys/fs/cgroup", root / "proc/self/cgroup")
    return min((quota for directory in directories if (quota := _group_quota(directory)) is not None), default=None)


def _group_quota(directory: Path) -> float | None:
    """Return a control group's quota over its period: `cpu.max`, or the two files of version 1 (-1: no limit)."""
    try:
        quota, period = (directory / "cpu.max").read_bytes().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # version 1, or "max"
        pass
    granted, every = (_read_count(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return granted / every if granted and every and granted > 0 else None


def _memory_groups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Return the directories of the control groups that limit this process's memory, and of those they lie in."""
    return _groups("memory", root, membership)


def _groups(controller: str, root: Path, membership: Path) -> list[Path]:
    """Return the directories of the control groups of one controller that this process is in, innermost first."""
    try:
        lines = os.fsdecode(membership.read_bytes()).split("\n")
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, name = line.split(":", 2)  # cgroups(7)
        if controllers and controller not in controllers.split(","):
            continue
        if ".." in name.split("/"):  # beside what this namespace shows: none of those directories is ours
            continue
        top = root / controller if controllers else root
        group = top / name.lstrip("/")
        # A container may show its own group as the root, whatever its name is outside.
        found += [directory for directory in (group, *group.parents) if directory.is_relative_to(top)]
    return [directory for directory in found if os.path.isdir(directory)]  # noqa: PTH112 - Path.is_dir may raise


def _group_headroom(directory: Path) -> int | None:
    """Return what a control group leaves of its limit; None where it has none."""
    for limits, usage, cached in (
        # Above "high" the kernel does not refuse memory, it stalls who asks for it.
        (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file")),
        (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    ):
        known = [most for limit in limits if (most := _read_count(directory / limit)) is not None]
        used = _read_count(directory / usage)
        if known and used is not None:
            return max(0, min(known) - used + min(_reclaimable_bytes(directory / "memory.stat", cached), used))
    return None


def _read_count(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):  # another version's file, or "max"
        return None


def _reclaimable_bytes(path: Path, names: Sequence[str]) -> int:
    """Return what the named lines of a group's memory.stat add up to; what cannot be read is nothing."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return 0
    counts = dict(fields for line in lines if len(fields := line.split()) == 2)
    return sum(int(count) for name in names if (count := counts.get(name.encode(), b"0")).isdigit())


def _available_bytes(root: Path) -> list[int]:
    """Return the system's own estimate of what can be had without swapping, if it makes one (proc_meminfo(5))."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]


def private_bytes() -> int | None:
    """Return the memory this process holds now without pages of mapped files, in bytes; None where unknown.

    Anonymous and shared memory (`RssAnon`, `RssShmem`: proc_pid_status(5)).
    """
    parts = _status_bytes("RssAnon"), _status_bytes("RssShmem")
    return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]


def peak_bytes() -> int | None:
    """Return the most memory this process held since `restart_peak`, pages of mapped files among it; None if unknown.

    `VmHWM` of proc_pid_status(5).
    """
    return _status_bytes("VmHWM")


def restart_peak() -> None:
    """Let `peak_bytes` start again from what is held now, where the kernel allows it (proc_pid_clear_refs(5))."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ask(*command: str, directory: Path | None = None) -> str | None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit(directory: Path) -> str | None:
    inside = _ask("git", "ls-files", "--error-unmatch", __file__, directory=directory)
    commit = _ask("git", "rev-parse", "HEAD", directory=directory)
    if inside is None or not commit:
        return None
    changed = _ask("git", "status", "--porcelain", "--untracked-files=no", directory=directory)
    return f"{commit}+changes" if changed else commit


def _gpu() -> tuple[str | None, str | None]:
    """Return the first GPU's name and its driver's version, by nvidia-smi or, without it, by /proc."""
    answer = _ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if answer:
        name, _, driver = answer.splitlines()[0].partition(",")
        return name.strip(), driver.strip()
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        named = re.search(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE)
        version = re.search(r"Module.*?(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
        return named and named[1], version and version[1]
    return None, None
