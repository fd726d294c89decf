"""A process's life in phases: they add up, and come out as table, JSON, metrics and spans."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

import streamload
from streamload._coldstart._partition import OTHER, Phase, partition
from streamload._coldstart._process import process_start, unix_time
from streamload._coldstart._run import measured_command
from streamload._engine import LoadMoments, LoadStats

ZEROS = dict.fromkeys(LoadStats.__dataclass_fields__, 0)


class Load:
    """A load as the recorder sees one, of two groups; `landed` of them are resident."""

    def __init__(self, submitted, landed=2):
        self.submitted, self.landed = submitted, landed

    def stats(self):
        given = {"bytes_total": 200, "bytes_resident": 100 * self.landed, "groups": 2, "groups_resident": self.landed}
        told = {"requests": 5, "retries": 2, "tier_bytes": 30, "cached_bytes": 10, "stall_seconds": 0.25}
        return LoadStats(**{**ZEROS, **given, **told, "seconds": 2.0, "first_byte_seconds": 0.5})

    def moments(self):
        layers = {"model.embed": self.submitted + 0.5, "model.layers.0": self.submitted + 2.0}
        headers = (self.submitted - 0.5, self.submitted - 0.25)
        return LoadMoments(headers=headers, submitted=self.submitted, layers=layers, used={})

    def wait(self, timeout=None):
        pass


@pytest.fixture
def recorder():
    """A recorder with an import, a load and a first token, all in the future: nothing depends on the clock."""
    made = streamload.ColdStartRecorder()
    now = time.monotonic() + 10
    made.add_phase("imports", "torch", now, now + 1)
    made.watch(Load(submitted=now + 2))
    made.note_moment("first_token", now + 4.5)
    return made


def names(phases):
    return [(phase.name, round(phase.start, 6), round(phase.end, 6)) for phase in phases]


def test_what_is_not_measured_leads_to_the_next_moment():
    found = partition({"a": 1.0, "b": 4.0}, [Phase("imports", 1.5, 2.5)])
    assert names(found) == [("a", 0, 1), ("b", 1, 1.5), ("imports", 1.5, 2.5), ("b", 2.5, 4)]


def test_of_nested_phases_the_inner_one_has_the_time():
    measured = [Phase("warm_up", 0.0, 5.0), Phase("compilation", 1.0, 3.0), Phase("imports", 2.0, 2.5)]
    assert [(phase.name, phase.seconds) for phase in partition({}, measured)] == [
        ("warm_up", 1.0),
        ("compilation", 1.0),
        ("imports", 0.5),
        ("compilation", 0.5),
        ("warm_up", 2.0),
    ]


def test_what_no_moment_ends_is_not_lost():
    found = partition({}, [Phase("imports", 1.0, 2.0), Phase("warm_up", 3.0, 4.0)])
    assert [phase.name for phase in found] == [OTHER, "imports", OTHER, "warm_up"]
    assert sum(phase.seconds for phase in found) == 4.0


def test_phases_leave_no_gap_and_overlap_nowhere(recorder):
    report = recorder.report()
    assert report.phases[0].start == 0.0
    assert all(one.end == after.start for one, after in zip(report.phases, report.phases[1:], strict=False))
    assert sum(report.totals().values()) == pytest.approx(report.seconds)
    assert list(report.reached) == ["process_start", "submitted", "first_byte", "all_resident", "first_token"]
    wanted = ["process_start", "submitted", "imports", "headers", "first_byte", "all_resident", "first_token"]
    assert list(report.totals()) == wanted
    assert report.totals()["headers"] == pytest.approx(0.25)


def test_a_load_under_way_has_not_reached_its_end():
    recorder = streamload.ColdStartRecorder()
    recorder.watch(Load(time.monotonic(), landed=1))
    report = recorder.report()
    assert "all_resident" not in report.reached
    assert report.loads[0].all_resident is None


def test_a_load_is_watched_once_and_a_second_has_its_own_name(recorder):
    load = Load(time.monotonic())
    recorder.watch(load)
    recorder.watch(load)
    assert [one.name for one in recorder.report().loads] == ["model", "model 2"]


def test_only_the_first_time_of_a_moment_counts():
    recorder = streamload.ColdStartRecorder()
    assert recorder.seconds_to("first_token") is None
    recorder.reached("first_token")
    first = recorder.seconds_to("first_token")
    recorder.reached("first_token")
    assert recorder.seconds_to("first_token") == first


def test_the_process_began_before_it_asked_and_parent_and_child_agree():
    before = time.monotonic()
    code = (
        "import time\n"
        "from streamload._coldstart._process import process_start\n"
        "print(process_start(), time.monotonic())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    began, asked = map(float, done.stdout.split())
    tick = 0.02  # the kernel's clock tick, and what it rounds
    assert before - tick <= began < asked <= time.monotonic()
    assert process_start() < before
    assert abs(unix_time(time.monotonic()) - time.time()) < tick


def test_json_holds_the_whole_report(recorder):
    report = recorder.report()
    assert streamload.ColdStartReport.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_the_table_names_phases_moments_and_the_load(recorder):
    text = recorder.report().table()
    for word in ("imports", "torch 1.00 s", "first_token", "sum", "5 requests, 2 of them repeated", "model.layers.0"):
        assert word in text
    assert "40 B came from caches" in text


def test_prometheus_parses_what_a_scrape_gives(recorder):
    prometheus = pytest.importorskip("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    registry = prometheus.CollectorRegistry()
    registry.register(recorder.collector())
    scraped = prometheus.generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(scraped) for sample in family.samples]
    found = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    report = recorder.report()
    phases = [value for key, value in found.items() if key[0] == "streamload_phase_seconds"]
    assert sum(phases) == pytest.approx(found[("streamload_cold_start_seconds",)]) == pytest.approx(report.seconds)
    assert found["streamload_phase_seconds", "imports"] == pytest.approx(1.0)
    assert found["streamload_load_retries_total", "model"] == 2
    assert found["streamload_load_bytes", "model"] == 200
    assert found["streamload_load_cache_hit_bytes_total", "model"] == 40
    at = found["streamload_layer_timestamp_seconds", "model.layers.0", "model"]
    assert at - report.started == pytest.approx(report.reached["all_resident"], abs=0.01)


def test_spans_have_the_times_that_were_measured(recorder):
    trace = pytest.importorskip("opentelemetry.trace")
    spans = []

    class Span(trace.NonRecordingSpan):
        def __init__(self, name, start):
            super().__init__(trace.SpanContext(1, len(spans) + 1, is_remote=False))
            self.name, self.start, self.finish = name, start, None
            spans.append(self)

        def end(self, end_time=None):
            self.finish = end_time

    class Tracer(trace.NoOpTracer):
        def start_span(self, name, context=None, start_time=None, attributes=None):
            made = Span(name, start_time)
            made.parent = None if context is None else trace.get_current_span(context)
            return made

    class Provider(trace.TracerProvider):
        def get_tracer(self, name, version=None, schema_url=None, attributes=None):
            return Tracer()

    report = recorder.report()
    report.record_spans(Provider())
    root, *below = spans
    assert (root.name, root.start) == ("cold start", round(report.started * 1e9))
    assert [span.name for span in below] == [*(phase.name for phase in report.phases), "load model"]
    assert all(span.parent is root for span in below)
    assert sum(span.finish - span.start for span in below[:-1]) == pytest.approx(root.finish - root.start, abs=1e5)
    assert below[-1].finish - below[-1].start == pytest.approx(2e9, abs=1e5)


def test_watching_announces_to_whoever_listens(recorder):
    code = (
        "import sys, streamload\n"
        "heard = []\n"
        "sys.addaudithook(lambda event, given: heard.append((event, given[0])) if 'coldstart' in event else None)\n"
        "phases = streamload.ColdStartRecorder()\n"
        "phases.reached('a')\n"
        "phases.reached('a')\n"
        "with phases.phase('b'): pass\n"
        "print(heard)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ", ('streamload.coldstart.reached', 'a'), ('streamload.coldstart.phase', 'b')]" in done.stdout


CHILD = ["-m", "streamload._coldstart._child", "7", "no-traces"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["serve.py", "--port", "1"], [*CHILD, "script", "serve.py", "--port", "1"]),
        (["-u", "-X", "utf8", "serve.py"], ["-u", "-X", "utf8", *CHILD, "script", "serve.py"]),
        (["-Wignore", "-m", "app", "-x"], ["-W", "ignore", *CHILD, "module", "app", "-x"]),
        (["-um", "app"], ["-u", *CHILD, "module", "app"]),
        (["-c", "pass", "x"], [*CHILD, "code", "pass", "x"]),
    ],
)
def test_a_python_command_becomes_a_measured_one(words, expected):
    assert measured_command([sys.executable, *words], 7)[1:] == expected


def test_a_script_that_names_python_is_measured_and_no_other(tmp_path):
    script = tmp_path / "serve"
    script.write_text(f"#!{sys.executable}\npass\n")
    script.chmod(0o755)
    assert measured_command([str(script), "x"], 7) == [sys.executable, *CHILD, "script", str(script), "x"]
    assert measured_command([str(script)], 7, traces=True)[1:5] == [*CHILD[:3], "traces"]
    script.write_text("#!/bin/sh\ntrue\n")
    with pytest.raises(ValueError, match="only Python programs"):
        measured_command([str(script)], 7)
    with pytest.raises(ValueError, match="name a script"):
        measured_command([sys.executable, "-u"], 7)
    with pytest.raises(FileNotFoundError):
        measured_command([str(tmp_path / "none")], 7)
