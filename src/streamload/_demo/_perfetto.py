"""Write timelines as a trace that ui.perfetto.dev and chrome://tracing open.

Floor 6; stdlib only. The format is the Trace Event Format's JSON object form: complete events ("X") in
microseconds, one process a run, one thread a lane (readers: one each), a counter of bytes arrived.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ._timeline import Lane, Span, Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["trace_events", "write_trace"]

_COMPUTE_THREAD, _LINK_THREAD, _FIRST_READER = 1, 2, 10


def write_trace(timelines: Sequence[Timeline], path: Path) -> None:
    """Write the timelines to a JSON file.

    Raises:
        OSError: The file cannot be written.
    """
    events = [event for number, timeline in enumerate(timelines, 1) for event in trace_events(timeline, number)]
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}), encoding="utf-8")


def trace_events(timeline: Timeline, process: int) -> Iterator[dict[str, object]]:
    """Yield one run's events as a process of the trace."""
    yield _name("process_name", process, 0, timeline.title)
    threads = {_COMPUTE_THREAD: "compute", _LINK_THREAD: "copy over the link"}
    for span in timeline.lane(Lane.READ):
        threads[_FIRST_READER + span.thread] = f"reader {span.thread}"
    for thread, name in threads.items():
        yield _name("thread_name", process, thread, name)
    for lane in Lane:
        for span in timeline.lane(lane):
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
    yield from _counter(timeline, process)
    for name, at in (("load call returned", timeline.returned), ("first token", timeline.first_token)):
        yield {"name": name, "ph": "i", "s": "p", "pid": process, "tid": _COMPUTE_THREAD, "ts": _micros(at)}


def _counter(timeline: Timeline, process: int) -> Iterator[dict[str, object]]:
    arrived = 0
    yield {"name": "bytes arrived", "ph": "C", "pid": process, "tid": 0, "ts": 0, "args": {"bytes": 0}}
    for span in sorted(timeline.lane(Lane.COPY), key=lambda span: span.end):
        arrived += span.nbytes
        at = _micros(span.end)
        yield {"name": "bytes arrived", "ph": "C", "pid": process, "tid": 0, "ts": at, "args": {"bytes": arrived}}


def _thread(span: Span) -> int:
    if span.lane is Lane.READ:
        return _FIRST_READER + span.thread
    return _LINK_THREAD if span.lane is Lane.COPY else _COMPUTE_THREAD


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
