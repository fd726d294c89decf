"""Storage: what file system and drive a path lies on, direct reads, the page cache, io_uring.

Part of `_doctor`. Kinds of file systems are those that `csrc/io/file_system` tells apart, here by name, as
/proc/self/mountinfo gives it; network file systems made for many readers are set apart from the others.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from .._machine import cached_fraction
from ._finding import Finding
from ._system import read_line

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Mount", "direct_reads", "file_to_try", "mount_of", "page_cache", "storage"]

_MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
_STACKED: Final = ("overlay", "aufs", "fuse.fuse-overlayfs")
_PARALLEL: Final = ("lustre", "gpfs", "beegfs", "ceph", "pvfs2", "wekafs", "fuse.juicefs", "fuse.ceph")
_REMOTE: Final = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda"),
    *("9p", "virtiofs", "vboxsf", "vmhgfs", "fuse", "fuseblk"),
)
_VIRTUAL: Final = ("vd", "xvd")  # virtio and Xen: "rotational" is what the host left unsaid
_MEASURE: Final = "measure it: streamload bench engine PATH"
_READ_BYTES: Final = 1 << 16  # a multiple of every grid that drives ask for


class Mount(NamedTuple):
    """What a path lies on (proc_pid_mountinfo(5)).

    Attributes:
        kind: Name of the file system, such as "ext4".
        device: Its number, "major:minor"; major 0 where there is no block device.
        source: What is mounted there, such as /dev/nvme0n1p2.
    """

    kind: str
    device: str
    source: str


def mount_of(root: Path, path: Path) -> Mount | None:
    """Return what a path lies on; None where the system does not say.

    Args:
        root: Where `proc` is.
        path: An existing path, resolved.
    """
    best: tuple[int, Mount] | None = None
    for line in read_line(root / "proc/self/mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if not dash or len(fields) < 6 or len(rest) < 2:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        # What is mounted over another comes later.
        if path.is_relative_to(point) and (best is None or len(point) >= best[0]):
            best = len(point), Mount(rest[0], fields[2], rest[1])
    return best and best[1]


def storage(root: Path, path: Path) -> Finding:
    """Say what a path lies on."""
    mount = mount_of(root, path)
    name = "storage"
    if mount is None:
        return Finding(name, "unknown", "the system does not say what the path lies on", "file systems differ in speed")
    found = f"{mount.kind} ({mount.source})"
    if mount.kind in _MEMORY:
        why = "bytes are in memory already and need no drive; they count against the memory of machine and container"
        return Finding(name, "ok", found, why)
    if mount.kind in _STACKED:
        why = "a container's layers: a first read goes through them, and what the page cache holds cannot be asked"
        fix = "keep checkpoints on a mounted drive: docker -v /nvme/models:/models:ro"
        return Finding(name, "slow", found, why, fix)
    if mount.kind in _PARALLEL:
        why = "a network file system for many readers: fast or not, by its servers and how files are striped"
        return Finding(name, "unknown", found, why, _MEASURE)
    if mount.kind in _REMOTE or mount.kind.startswith("fuse."):
        why = "a network or user-space file system: every read goes through its client, direct reads are not used"
        fix = "open the store's URL with StreamOptions(cache_dir=...) on a local drive, or copy to one first"
        return Finding(name, "slow", found, why, fix)
    return _drive(root, mount, found)


def _drive(root: Path, mount: Mount, found: str) -> Finding:
    """Say whether the drive below a file system turns."""
    place = root / "sys/dev/block" / mount.device
    block = place.resolve()
    if (block / "partition").exists():
        block = block.parent
    turns = read_line(block / "queue/rotational")
    why = "a drive's rate bounds every cold load; many reads in flight help flash, and not what turns"
    if not turns or not place.exists():
        return Finding("storage", "unknown", f"{found}, on a drive that the system does not show", why, _MEASURE)
    if turns == "1" and block.name.startswith(_VIRTUAL):
        return Finding("storage", "unknown", f"{found}, on a virtual drive of unknown kind", why, _MEASURE)
    if turns == "1":
        fix = "keep checkpoints on NVMe, or in memory (/dev/shm) where they fit"
        return Finding("storage", "slow", f"{found}, on a drive that turns", why, fix)
    return Finding("storage", "ok", f"{found}, on flash", why)


def file_to_try(path: Path) -> Path | None:
    """Return a file to try reads with: the path itself, or the first of a directory, weights before others; or None.

    Raises:
        OSError: The directory cannot be listed.
    """
    if not path.is_dir():
        return path
    files = [file for file in path.iterdir() if file.is_file() and file.stat().st_size]
    return min(files, key=lambda file: (file.suffix != ".safetensors", file.name), default=None)


def direct_reads(kind: str, file: Path | None) -> Finding:
    """Try one read around the page cache.

    Args:
        kind: The file system's name; "" where it is not known.
        file: What is read; None where there is nothing.
    """
    why = "cold files are read around the page cache, many reads in flight; through it a thread waits for each"
    name = "O_DIRECT"
    if kind in _MEMORY:
        return Finding(name, "ok", "not needed: files are in memory", why)
    if file is None:
        return Finding(name, "unknown", "nothing there to try it with", why, "name a file, or a directory with one")
    try:
        _read_once(file, os.O_DIRECT)
    except OSError as error:
        try:
            _read_once(file, 0)
        except OSError as plain:
            fix = f"ls -l {file.parent}; chmod or chown, or run as who owns it"
            return Finding(name, "wrong", f"{file.name} cannot be read: {plain.strerror}", "a load ends there", fix)
        text = "does not take it" if error.errno == errno.EINVAL else f"refuses it ({error.strerror})"
        fix = "keep checkpoints on ext4 or xfs; nothing else needs to be set, reads go through the page cache"
        return Finding(name, "slow", f"the file system {text}", why, fix)
    return Finding(name, "ok", f"{file.name} can be read so", why)


def _read_once(file: Path, flag: int) -> None:
    """Read a file's first bytes into memory that lies on a page.

    Raises:
        OSError: It cannot be opened or read so.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | flag)
    try:
        with mmap.mmap(-1, _READ_BYTES) as memory:
            os.preadv(descriptor, [memory], 0)
    finally:
        os.close(descriptor)


def page_cache(kind: str, file: Path | None) -> Finding:
    """Ask the kernel what the page cache holds of a file.

    Args:
        kind: The file system's name; "" where it is not known.
        file: Which file; None where there is nothing.

    Raises:
        OSError: The file cannot be opened.
    """
    why = "what is cached is read from there, the rest around it; where it cannot be asked, sample reads are timed"
    name = "page cache"
    if kind in _MEMORY:
        return Finding(name, "ok", "not needed: files are in memory", why)
    if file is None:
        return Finding(name, "unknown", "nothing there to ask about", why, "name a file, or a directory with one")
    part = None if kind in _STACKED else cached_fraction(file)
    if part is None:
        fix = "Linux 6.5, a seccomp profile that allows cachestat, a file of one's own, no overlay; a few milliseconds"
        return Finding(name, "slow", "the kernel does not say what it holds (cachestat)", why, fix)
    return Finding(name, "ok", f"holds {part:.0%} of {file.name}", why)
