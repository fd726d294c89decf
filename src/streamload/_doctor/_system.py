"""Small readings of `proc` and `sys` that several checks share.

Part of `_doctor`. Every function takes the root that they lie under, so that another tree can stand in for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_line", "read_list", "status_field"]


def read_line(path: Path) -> str:
    """Return a small file's text without blanks around it; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_list(text: str) -> set[int]:
    """Return the numbers of a list such as "0-3,8" (cpuset(7), "List format")."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def status_field(root: Path, name: str) -> str:
    """Return one field of this process's status (proc_pid_status(5)); "" where there is none."""
    lines = read_line(root / "proc/self/status").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "")
