"""Benchmarks: what is reached, against a ceiling and peers measured in the same process.

Floor 6; needs torch. Every contestant of a round runs once before any runs again, in an order that turns, so that
a slow moment of the machine meets all of them. The map:

    _engine       `streamload bench engine`: bytes from files into memory
    _contestants  what takes part: ceilings, streamload, peers
    _ceiling      the fastest way to move the bytes that needs nothing of ours
    _rounds       how contestants are timed
    _result       what comes out: a table, a JSON file
"""

from ._engine import run_engine_bench
from ._result import BenchError, EngineBench

__all__ = ["BenchError", "EngineBench", "run_engine_bench"]
