"""What one check found.

Part of `_doctor`; pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State"]

State = Literal["ok", "slow", "wrong", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Say how one thing is here, why that matters, and what to do.

    Attributes:
        check: What was looked at, such as "huge pages".
        state: "ok", "slow" (loads work and take longer), "wrong" (something will fail) or "unknown" (it cannot be told
            here, or is not there to be looked at).
        found: What is there, with units.
        why: What it means for a load.
        fix: The command or setting that helps; "" where nothing needs to be done.
    """

    check: str
    state: State
    found: str
    why: str
    fix: str = ""
