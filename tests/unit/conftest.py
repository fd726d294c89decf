"""What several unit tests need: work counted instead of timed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def count_calls() -> Callable[[Callable[[], object]], int]:
    """Return a function that runs a job and returns how many Python and C functions it called."""

    def count(job: Callable[[], object]) -> int:
        calls = 0

        def note(frame, event, argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            job()
        finally:
            sys.setprofile(before)
        return calls

    return count
