"""Holds results against marks: what the `marks.py` of each benchmark has in common. Standard library only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Mark = tuple[str, float | None, str, float]  # what, found, "at least" or "at most", wanted


def hold(names: list[str], marks: Callable[[dict[str, Any]], list[Mark]]) -> int:
    """Print every mark of every result file; return 1 if one was missed, 2 if there was none to hold against."""
    missed = held = 0
    for name in names:
        for what, found, sense, wanted in marks(json.loads(Path(name).read_text(encoding="utf-8"))):
            met = found is not None and (found >= wanted if sense == "at least" else found <= wanted)
            missed += not met
            held += 1
            said = "not measured" if found is None else f"{found:.3f}"
            print(f"{'ok    ' if met else 'MISSED'} {what}: {said}, {sense} {wanted:g} ({Path(name).name})")
    if not held:
        print("no mark applies to any of the files" if names else "no file given", file=sys.stderr)
        return 2
    return int(missed > 0)
