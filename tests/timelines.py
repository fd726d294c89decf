"""Checks of timelines in results, and of the files that viewers of traces open.

The format is the Trace Event Format, "JSON Object Format": https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from itertools import pairwise

FIELDS = {
    "X": {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"},
    "M": {"name", "ph", "pid", "tid", "args"},
    "C": {"name", "ph", "pid", "tid", "ts", "args"},
    "i": {"name", "ph", "s", "pid", "tid", "ts"},
}


def check_timeline(timeline, nbytes, *lanes: str):
    """A timeline's lanes are those named, its reads and copies have all bytes, and its threads do one thing at a time.

    Args:
        timeline: As a result has it.
        nbytes: That were read and copied; None: of none.
        lanes: That have spans.
    """
    assert set(timeline) == {"title", "layers", "spans", "instants"}
    spans = timeline["spans"]
    assert {span["lane"] for span in spans} == set(lanes)
    assert {span["layer"] for span in spans} <= set(timeline["layers"])
    assert len(set(timeline["layers"])) == len(timeline["layers"])
    threads = {}
    for span in spans:
        assert 0 <= span["start"] <= span["end"]
        threads.setdefault((span["lane"], span["thread"]), []).append((span["start"], span["end"]))
    for own in threads.values():
        assert own == sorted(own)
        assert all(end <= start for (_, end), (start, _) in pairwise(own))
    for lane in ("read", "copy"):
        if lane in lanes and nbytes is not None:
            assert sum(span["nbytes"] for span in spans if span["lane"] == lane) == nbytes
    assert all(isinstance(name, str) and at >= 0 for name, at in timeline["instants"])


def check_trace_file(path):
    """Return the spans of a trace file by the name of their process, once its events are those of the format."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"displayTimeUnit", "traceEvents"}
    events = content["traceEvents"]
    for event in events:
        assert set(event) == FIELDS[event["ph"]]
        assert all(
            isinstance(event[key], int) and event[key] >= 0 for key in ("pid", "tid", "ts", "dur") if key in event
        )
    processes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    threads = {}
    for event in events:
        assert event["pid"] in processes
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert threads.keys() <= named
    for own in threads.values():
        own.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(own))
    spans = [event for event in events if event["ph"] == "X"]
    return {name: [event for event in spans if event["pid"] == pid] for pid, name in processes.items()}
