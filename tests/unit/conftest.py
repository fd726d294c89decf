"""What several unit tests need: small checkpoints, work counted instead of timed."""

from __future__ import annotations

import json
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


@pytest.fixture
def write_index():
    """Return a function that writes an index."""

    def write_index(path, weight_map):
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        return path

    return write_index


@pytest.fixture
def sharded(tmp_path, write, write_index):
    """Return a directory of three shards and their index."""
    write(tmp_path / "model-00001-of-00003.safetensors", "a", "b", metadata={"format": "pt", "part": "1"})
    write(tmp_path / "model-00002-of-00003.safetensors", "c", metadata={"part": "2", "more": "x"})
    write(tmp_path / "model-00003-of-00003.safetensors", "d")
    shards = {"a": 1, "b": 1, "c": 2, "d": 3}
    weight_map = {name: f"model-0000{shard}-of-00003.safetensors" for name, shard in shards.items()}
    write_index(tmp_path / "model.safetensors.index.json", weight_map)
    return tmp_path
