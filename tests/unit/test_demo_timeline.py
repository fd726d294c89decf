"""The demo's timeline, and the three ways it is shown: text, picture, trace."""

from __future__ import annotations

import itertools
import json

import pytest

from streamload._demo._text import GLYPHS_ASCII, GLYPHS_UNICODE, draw
from streamload._demo._timeline import Timeline
from streamload._trace import Lane, Span, in_link_order, in_tracks, layer_groups, write_trace

LAYERS = ("model.embed_tokens", *(f"model.layers.{number}" for number in range(4)), "lm_head")


def make_timeline(title="streamed"):
    """Every layer is read, copied and computed one after the other, a tenth of a second each."""
    spans = []
    for number, layer in enumerate(LAYERS):
        start = number / 10
        spans += [
            Span(Lane.READ, layer, start, start + 0.05, 100, thread=number % 2),
            Span(Lane.COPY, layer, start + 0.02, start + 0.1, 100),
            Span(Lane.COMPUTE, layer, start + 0.1, start + 0.2),
        ]
    return Timeline(title, LAYERS, tuple(spans), first_token=0.7, returned=0.01)


def test_bytes_arrived_counts_copies_that_ended():
    timeline = make_timeline()
    assert timeline.bytes_arrived(0.0) == 0
    assert timeline.bytes_arrived(0.25) == 200
    assert timeline.bytes_arrived(timeline.end) == 600


def test_began_is_the_first_computing_of_a_layer():
    timeline = make_timeline()
    assert timeline.began("model.layers.0") == pytest.approx(0.2)
    assert timeline.began("no such layer") == float("inf")


def test_link_order_leaves_out_time_in_the_queue():
    queued = [
        Span(Lane.COPY, "a", 0.0, 1.0, 10),
        Span(Lane.COPY, "b", 0.0, 2.0, 10),
        Span(Lane.COPY, "c", 3.0, 4.0, 10),
    ]
    assert [(span.start, span.end) for span in in_link_order(reversed(queued))] == [(0.0, 1.0), (1.0, 2.0), (3.0, 4.0)]


def test_reads_of_a_track_do_not_overlap():
    reads = [
        Span(Lane.READ, "a", 0.0, 2.0, 10, thread=3),
        Span(Lane.READ, "b", 1.0, 3.0, 10, thread=3),
        Span(Lane.READ, "c", 1.0, 2.0, 10, thread=7),
        Span(Lane.READ, "d", 2.0, 4.0, 10, thread=3),
    ]
    assert [(span.layer, span.thread) for span in in_tracks(reversed(reads))] == [
        ("a", 0),
        ("c", 1),
        ("b", 2),
        ("d", 0),
    ]


def test_layers_share_rows_when_there_are_many():
    assert list(layer_groups(LAYERS, 10)) == ["embed_tokens", "layers.0", "layers.1", "layers.2", "layers.3", "lm_head"]
    groups = layer_groups(LAYERS, 3)
    assert list(groups) == ["embed_tokens … layers.0", "layers.1 … 2", "layers.3 … lm_head"]
    assert [layer for part in groups.values() for layer in part] == list(LAYERS)


@pytest.mark.parametrize("width", [60, 100, 160])
def test_text_fills_the_width_and_no_more(width):
    lines = draw([make_timeline("usual"), make_timeline()], width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width * 0.8


def test_text_shows_each_lane_and_the_first_token():
    text = draw([make_timeline()], width=80)
    for glyph in (*GLYPHS_UNICODE.values(), "|"):
        assert glyph in text.split("\n", 1)[1]
    assert "first token after 0.700 s" in text


def test_text_in_ascii_is_ascii():
    text = draw([make_timeline()], width=80, unicode=False)
    assert text.isascii()
    assert all(glyph in text for glyph in GLYPHS_ASCII.values())


def test_trace_follows_the_trace_event_format(tmp_path):
    write_trace([make_timeline("usual").as_trace(), make_timeline().as_trace()], tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C", "i"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] != "M":
            assert isinstance(event["ts"], int)
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in named
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {"usual", "streamed"}


def test_trace_events_of_a_thread_do_not_overlap(tmp_path):
    write_trace([make_timeline().as_trace()], tmp_path / "trace.json")
    by_thread = {}
    for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]:
        if event["ph"] == "X":
            by_thread.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(by_thread) == 4  # compute, copy, two readers
    for spans in by_thread.values():
        spans.sort()
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


@pytest.mark.slow
def test_picture_is_a_png_with_something_on_it(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from streamload._demo._picture import write_picture

    path = tmp_path / "timeline.png"
    write_picture([make_timeline("usual"), make_timeline()], path, heading="a heading", note="a note")
    assert path.read_bytes().startswith(b"\x89PNG")
    pixels = imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 1000
    assert pixels[0, 0, :3].min() == 1.0, "the background is white"
    assert (pixels[:, :, :3].min(axis=2) < 0.9).mean() > 0.01, "something is drawn"
