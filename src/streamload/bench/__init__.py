"""Benchmarks: what is reached, against a ceiling and peers measured in the same process.

Floor 6; needs torch. Every contestant of a round runs once before any runs again, in an order that turns, so that
a slow moment of the machine meets all of them. The map:

    _engine       `streamload bench engine`: bytes from files into memory
    _contestants  what takes part: ceilings, streamload, peers
    _ceiling      the fastest way to move the bytes that needs nothing of ours
    _rounds       how contestants are timed
    _result       what comes out: a table, a JSON file
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._result import BenchError, EngineBench

if TYPE_CHECKING:
    import os

__all__ = ["BenchError", "EngineBench", "run_engine_bench"]


def run_engine_bench(
    path: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    repeat: int = 5,
    cold: bool = False,
    command: str = "",
) -> EngineBench:
    """Measure ceilings, streamload and its peers over one checkpoint, interleaved.

    Args:
        path: The checkpoint; None makes one of about 1 GB in a temporary directory.
        device: "cpu" or "cuda:N".
        repeat: Rounds; each runs everything once.
        cold: Drop the files from the page cache before each run.
        command: What was typed, for the record.

    Raises:
        BenchError: There is no such device, the checkpoint is empty, or streamload's bytes are wrong.
        FormatError: The checkpoint is not valid.
        FileNotFoundError: There is none.
    """
    from ._engine import run  # torch

    return run(path, device, repeat=repeat, cold=cold, command=command)
