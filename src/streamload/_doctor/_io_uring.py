"""io_uring: whether there is one, and who refuses it.

Part of `_doctor`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ._finding import Finding
from ._system import read_line, status_field

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Ring", "io_uring", "make_ring"]

_SETUP: Final = 425  # the same number on every architecture but alpha: include/uapi/asm-generic/unistd.h, Linux 5.1
_PARAMS_BYTES: Final = 120  # struct io_uring_params (linux/io_uring.h)
_FEATURES_AT: Final = 20  # its field `features`
_PLAIN_READS: Final = 1 << 3  # IORING_FEAT_RW_CUR_POS, which came with IORING_OP_READ


class Ring(NamedTuple):
    """What the kernel said to a request for a ring.

    Attributes:
        error: An errno; 0 where it made one.
        features: Bits of what that one can do.
    """

    error: int
    features: int


def make_ring() -> Ring:
    """Ask for a small io_uring, and let it go again."""
    params = (ctypes.c_ubyte * _PARAMS_BYTES)()
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    descriptor: int = system_call(ctypes.c_long(_SETUP), ctypes.c_uint(4), params)
    if descriptor < 0:
        return Ring(ctypes.get_errno(), 0)
    os.close(descriptor)
    return Ring(0, int.from_bytes(bytes(params[_FEATURES_AT : _FEATURES_AT + 4]), "little"))


def io_uring(root: Path, make: Callable[[], Ring] = make_ring) -> Finding:
    """Ask for an io_uring, and where it is refused find out by whom.

    Args:
        root: Where `proc` is.
        make: What asks.
    """
    why = "one io_uring keeps many cold reads in flight; without it each reading thread has one, by pread"
    ring = make()
    if ring.error == 0 and ring.features & _PLAIN_READS:
        return Finding("io_uring", "ok", "works", why)
    found, fix = _refusal(root, ring.error)
    return Finding("io_uring", "slow", found, why, fix)


def _refusal(root: Path, error: int) -> tuple[str, str]:
    """Return who refuses it, and what helps."""
    said = errno.errorcode.get(error, str(error))
    disabled = read_line(root / "proc/sys/kernel/io_uring_disabled")
    filtered = status_field(root, "Seccomp") == "2"  # SECCOMP_MODE_FILTER (proc_pid_status(5))
    if error == 0:
        return "this kernel's io_uring has no plain reads", "Linux 5.6 or newer"
    if error == errno.EPERM and disabled in ("1", "2"):
        found = f"kernel.io_uring_disabled={disabled} refuses it ({said})"
        return found, "sudo sysctl kernel.io_uring_disabled=0"
    if error in (errno.EPERM, errno.EACCES, errno.ENOSYS) and filtered:
        fix = "docker --security-opt seccomp=FILE, of a profile that allows io_uring_setup, _enter and _register"
        return f"a seccomp filter refuses it ({said})", fix
    if error == errno.ENOSYS:
        release = read_line(root / "proc/sys/kernel/osrelease") or "this one"
        return (
            f"the kernel has none ({release})",
            "Linux 5.6 or newer, built with CONFIG_IO_URING; a sandbox may hide it",
        )
    if error == errno.ENOMEM:
        return "memory for it is refused (ENOMEM)", "ulimit -l unlimited; a container: --ulimit memlock=-1"
    if error == errno.EMFILE:
        return "too many open files (EMFILE)", "ulimit -n 65536"
    return f"the kernel refuses it ({said})", "a security module or sandbox may forbid it: dmesg, audit log"
