"""Write traces as a file that ui.perfetto.dev and chrome://tracing open.

Part of `_trace`. The format is the Trace Event Format's JSON object form: complete events ("X") in microseconds, one
process a load, one thread a lane (readers: one each), a counter of bytes arrived.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .._whole_file import write_whole
from ._spans import Lane, Span, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["trace_events", "write_trace"]

_COMPUTE_THREAD, _LINK_THREAD, _PHASE_THREAD, _FIRST_READER = 1, 2, 3, 10


def write_trace(traces: Sequence[Trace], path: Path) -> None:
    """Write traces to one JSON file, which appears when it is whole.

    Raises:
        OSError: The file cannot be written.
    """
    events = [event for number, trace in enumerate(traces, 1) for event in trace_events(trace, number)]
    write_whole(path, json.dumps({"displayTimeUnit": "ms", "traceEvents": events}))


def trace_events(trace: Trace, process: int) -> Iterator[dict[str, object]]:
    """Yield one load's events as a process of the file."""
    yield _name("process_name", process, 0, trace.title)
    threads = {_COMPUTE_THREAD: "compute", _LINK_THREAD: "copy over the link"}
    if trace.lane(Lane.PHASE):
        threads = {_PHASE_THREAD: "phases"}
    for span in trace.lane(Lane.READ):
        threads[_FIRST_READER + span.thread] = f"reader {span.thread}"
    for thread, name in threads.items():
        yield _name("thread_name", process, thread, name)
    for lane in Lane:
        for span in trace.lane(lane):
            yield {
                "name": span.layer,
                "cat": lane.value,
                "ph": "X",
                "pid": process,
                "tid": _thread(span),
                "ts": _micros(span.start),
                "dur": max(_micros(span.end) - _micros(span.start), 0),
                "args": {"bytes": span.nbytes} if span.nbytes else {},
            }
    yield from _counter(trace, process)
    for name, at in trace.instants:
        yield {"name": name, "ph": "i", "s": "p", "pid": process, "tid": _COMPUTE_THREAD, "ts": _micros(at)}


def _counter(trace: Trace, process: int) -> Iterator[dict[str, object]]:
    arrived = 0
    if not trace.lane(Lane.COPY):
        return
    yield {"name": "bytes arrived", "ph": "C", "pid": process, "tid": 0, "ts": 0, "args": {"bytes": 0}}
    for span in sorted(trace.lane(Lane.COPY), key=lambda span: span.end):
        arrived += span.nbytes
        at = _micros(span.end)
        yield {"name": "bytes arrived", "ph": "C", "pid": process, "tid": 0, "ts": at, "args": {"bytes": arrived}}


def _thread(span: Span) -> int:
    if span.lane is Lane.READ:
        return _FIRST_READER + span.thread
    return {Lane.PHASE: _PHASE_THREAD, Lane.COPY: _LINK_THREAD}.get(span.lane, _COMPUTE_THREAD)


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
