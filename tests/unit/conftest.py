"""What several unit tests need: work counted instead of timed, and another system's files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Return a function that writes files below a root and gives back the root."""

    def make(files: dict[str, str]) -> Path:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return make
