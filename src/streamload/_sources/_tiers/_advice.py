"""What to say of a directory that cannot be used: whatever helps against what went wrong.

Part of `_tiers`; tells nobody by itself.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FREE_SPACE = "free some space, or run `streamload cache prune`"
_DENIED = "give a directory that this user may write to"
_ELSEWHERE = "give another directory"
_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        errno.ENOSPC: FREE_SPACE,
        errno.EDQUOT: FREE_SPACE,
        errno.EFBIG: "raise the limit of a file's length (`ulimit -f`), or give a directory on another file system",
        errno.ENOTDIR: f"a part of its path is no directory: {_ELSEWHERE}",
        errno.EEXIST: f"a part of its path is no directory: {_ELSEWHERE}",
        errno.ENOENT: f"it cannot be made there: {_ELSEWHERE}",
        errno.EACCES: _DENIED,
        errno.EPERM: _DENIED,
        errno.EROFS: f"its file system is read-only: {_ELSEWHERE}",
    }
)
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs", "devtmpfs")


def advice_for(error: OSError) -> str:
    """Return what to do about an error of the file system."""
    return _ADVICE.get(error.errno or 0, _ELSEWHERE)


def file_system_of(path: Path) -> str | None:
    """Return the kind of file system that a path is on, if it is not one in memory; None where it is, or may be."""
    real = os.path.realpath(path)
    best = kind = ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:  # proc_pid_mountinfo(5); what was mounted later hides what was before
        left, _, right = line.partition(" - ")
        point = _unescaped(left.split(" ")[4])
        if len(point) >= len(best) and f"{real}/".startswith(f"{point.rstrip('/')}/"):
            best, kind = point, right.split(" ")[0]
    return kind if kind and kind not in _IN_MEMORY else None


def _unescaped(text: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text
