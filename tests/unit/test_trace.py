"""Timelines in results: what they hold, how a long one becomes short, and what a viewer of traces gets of them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamload._trace import MOST_SPANS, Lane, Span, Trace, write_trace

from ..timelines import check_timeline, check_trace_file

LAYERS = ("embed", "layers.0", "layers.1")


def make_trace(count=8, layers=LAYERS):
    """Reads of two threads, then their copies, layer by layer."""
    spans = []
    for number in range(count):
        layer = layers[number * len(layers) // count]
        spans.append(Span(Lane.READ, layer, number / 10, number / 10 + 0.15, 100, number % 2))
        spans.append(Span(Lane.COPY, layer, number / 10 + 0.15, number / 10 + 0.2, 100))
    spans.append(Span(Lane.COMPUTE, layers[-1], 2.0, 2.5))
    return Trace("a load", tuple(spans), (("first token", 2.5),), layers)


def test_a_timeline_is_a_trace_in_json_and_back():
    timeline = json.loads(json.dumps(make_trace().as_dict()))
    check_timeline(timeline, 800, "read", "copy", "compute")
    assert timeline["layers"] == list(LAYERS)
    again = Trace.from_dict(timeline)
    assert again.as_dict() == timeline
    assert set(again.spans) == {replace(s, start=round(s.start, 6), end=round(s.end, 6)) for s in make_trace().spans}


def test_layers_that_nobody_ordered_come_as_they_began():
    trace = Trace("a load", make_trace().spans, ())
    assert trace.as_dict()["layers"] == list(LAYERS)
    strange = Trace("a load", (Span(Lane.READ, "from_pretrained", 0.0, 1.0),), (), LAYERS)
    assert strange.as_dict()["layers"] == [*LAYERS, "from_pretrained"]


@pytest.mark.parametrize("wrong", [{}, {"title": "t", "layers": [], "instants": [], "spans": [{"lane": "sleep"}]}])
def test_what_is_no_timeline_is_refused(wrong):
    with pytest.raises((KeyError, ValueError)):
        Trace.from_dict(wrong)


def test_a_trace_may_begin_later():
    later = make_trace().shifted(3.0)
    assert later.end == pytest.approx(make_trace().end + 3.0)
    assert min(span.start for span in later.spans) == 3.0
    assert later.instants == (("first token", 5.5),)


def test_the_closest_neighbours_of_a_layer_are_merged_first():
    spans = [
        *(Span(Lane.COPY, "a", 0.0, 1.0, 1), Span(Lane.COPY, "a", 1.1, 2.0, 2), Span(Lane.COPY, "a", 3.0, 4.0, 4)),
        *(Span(Lane.COPY, "b", 4.0, 5.0, 8), Span(Lane.COPY, "a", 5.0, 6.0, 16)),
    ]
    timeline = Trace("a load", tuple(spans), ()).as_dict(most_spans=4)
    assert [(span["start"], span["end"], span["nbytes"]) for span in timeline["spans"]] == [
        *((0.0, 2.0, 3), (3.0, 4.0, 4), (4.0, 5.0, 8), (5.0, 6.0, 16)),
    ]


@given(count=st.integers(1, 60), most=st.integers(0, 100))
def test_merging_keeps_bytes_and_layers_and_never_overlaps(count, most):
    trace = make_trace(count)
    timeline = trace.as_dict(most_spans=most)
    check_timeline(timeline, 100 * count, "read", "copy", "compute")
    stretches = sum(
        1 + sum(one.layer != after.layer for one, after in pairwise(own))
        for own in (
            [span for span in sorted(trace.spans, key=lambda s: s.start) if (span.lane, span.thread) == key]
            for key in {(span.lane, span.thread) for span in trace.spans}
        )
    )
    assert len(timeline["spans"]) == min(len(trace.spans), max(most, stretches))


def test_a_trace_of_a_hundred_thousand_reads_is_a_short_timeline():
    timeline = make_trace(100_000, tuple(f"layers.{number}" for number in range(80))).as_dict()
    check_timeline(timeline, 10_000_000, "read", "copy", "compute")
    assert len(timeline["spans"]) == MOST_SPANS
    assert len(json.dumps(timeline)) < 600_000


def test_what_a_viewer_opens_has_every_span(tmp_path):
    phase = Trace("cold start", (Span(Lane.PHASE, "imports", 0.0, 1.0), Span(Lane.PHASE, "headers", 1.0, 1.5)), ())
    write_trace([phase, make_trace().shifted(1.5)], tmp_path / "trace.json")
    found = check_trace_file(tmp_path / "trace.json")
    assert [event["name"] for event in found["cold start"]] == ["imports", "headers"]
    assert len(found["a load"]) == len(make_trace().spans)
    assert sum(event["args"].get("bytes", 0) for event in found["a load"] if event["cat"] == "copy") == 800
