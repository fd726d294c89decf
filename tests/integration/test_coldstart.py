"""`streamload coldstart` around programs that know nothing of it, and recorders that watch real loads."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from itertools import pairwise
from operator import itemgetter

import pytest
import torch

import streamload
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.torch import stream_module

from ..timelines import check_trace_file

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import streamload, torch
from torch import nn
from safetensors.torch import save_file
from streamload.torch import stream_module

layers = {f"{number}.weight": torch.ones(64, 64) for number in range(3)}
save_file(layers, sys.argv[1])
with torch.device("meta"):
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
with streamload.open(sys.argv[1]) as checkpoint:
    loading = stream_module(model, checkpoint, "cpu")
with torch.no_grad():
    model(torch.ones(1, 64))
loading.wait()
assert not model._forward_hooks, "something is left of the measuring"
print("computed", __name__, sys.argv[1:], __file__)
sys.exit(3)
"""


def coldstart(*words: object, cwd=None):
    """Run the command; return how it ended."""
    command = [sys.executable, "-m", "streamload", "coldstart", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "load.py"
    path.write_text(PROGRAM)
    return path


def test_a_report_is_made_of_what_was_measured(program, tmp_path):
    pytest.importorskip("vl_convert")
    written, page = tmp_path / "start.json", tmp_path / "start.html"
    options = ["--until", "exit", "--json", written, "--report", page]
    done = coldstart(*options, "--", sys.executable, program, tmp_path / "model.safetensors")
    assert f"report written to {page}" in done.stderr
    held = page.read_text("utf-8").partition('id="results">')[2].partition("</script>")[0]
    assert json.loads(held) == [{"name": "start.json", "text": written.read_text("utf-8")}]


@pytest.mark.parametrize("way", ["script", "module"])
def test_a_program_that_records_nothing_is_measured(program, tmp_path, way):
    what = [program] if way == "script" else ["-m", "load"]
    report_path, weights = tmp_path / "report.json", tmp_path / "model.safetensors"
    options = ["--until", "exit", "--json", report_path]
    done = coldstart(*options, "--", sys.executable, *what, weights, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"computed __main__ ['{weights}'] ")
    assert "load.py" in done.stdout
    report = json.loads(report_path.read_text())
    assert {"submitted", "first_byte", "all_resident", "first_forward", "exit"} <= set(report["reached"])
    assert {"imports", "headers"} <= set(report["totals"])
    assert any(phase["name"] == "imports" and phase["detail"] == "torch" for phase in report["phases"])
    assert sum(report["totals"].values()) == pytest.approx(report["wall_seconds"], rel=0.02)
    assert list(report["loads"][0]["layers"]) == ["0", "1", "2"]
    assert "imports" in done.stderr
    assert report_path.parent == tmp_path
    assert sorted(path.name for path in tmp_path.glob(".report*")) == []


def test_phases_and_a_load_come_on_one_axis(program, tmp_path):
    report_path, trace_path = tmp_path / "report.json", tmp_path / "trace.json"
    options = ["--until", "exit", "--json", report_path, "--trace", trace_path]
    done = coldstart(*options, "--", sys.executable, program, tmp_path / "model.safetensors")
    assert done.returncode == 3, done.stderr
    report = json.loads(report_path.read_text())
    assert "traces" not in report
    phases, load = check_trace_file(trace_path).items()
    assert phases[0] == "cold start"
    assert load[0].startswith("model: load of ")
    assert sum(event["dur"] for event in phases[1]) / 1e6 == pytest.approx(report["seconds"], abs=1e-3)
    copies = [event for event in load[1] if event["cat"] == "copy"]
    assert sum(event["args"]["bytes"] for event in copies) == report["loads"][0]["stats"]["bytes_total"]
    submitted, resident = (report["reached"][name] * 1e6 for name in ("submitted", "all_resident"))
    assert all(submitted - 1 <= event["ts"] and event["ts"] + event["dur"] <= resident + 1000 for event in copies)


def test_a_folder_for_the_trace_that_is_not_there_is_refused_before_the_program_runs(tmp_path):
    done = coldstart("--trace", tmp_path / "no" / "trace.json", "--", sys.executable, "-c", "print('ran')")
    assert done.returncode != 0
    assert "there is no such directory" in done.stderr
    assert done.stdout == ""


def test_a_program_that_fails_keeps_its_traceback_and_status(tmp_path):
    path = tmp_path / "fails.py"
    path.write_text("1 / 0\n")
    done = coldstart("--", sys.executable, path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "exit" in done.stderr


def test_code_on_the_command_line_is_measured():
    done = coldstart("--", sys.executable, "-c", "import sys; print(sys.argv, __name__)", "x")
    assert (done.returncode, done.stdout) == (0, "['-c', 'x'] __main__\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "no-such-program"], "no-such-program: No such file or directory"),
        (["--", "/bin/sh", "-c", "true"], "only Python programs can be measured"),
        (["--json", "/no/such/place/x", "--", "python3", "-c", "1"], "no such directory"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_2(words, said):
    done = coldstart(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_recorder_tells_when_each_layer_was_there(build, model_path, slow_engine):
    phases = streamload.ColdStartRecorder()
    model = build("meta")
    with streamload.open(model_path) as checkpoint:
        names = {layer.name for layer in checkpoint.layers}
        loading = stream_module(model, checkpoint, "cpu", engine=slow_engine)
    phases.watch(loading)
    with torch.no_grad():
        model(torch.arange(24).view(2, 12))
    phases.reached("first_token")
    loading.wait(timeout=60)
    report = phases.report()
    (load,) = report.loads
    assert set(load.layers) == names
    assert load.submitted < load.first_byte <= min(load.layers.values()) + 1e-6
    assert max(load.layers.values()) <= load.all_resident + 0.05
    assert load.stats == loading.stats()
    assert report.totals()["headers"] > 0
    assert all(one.end == after.start for one, after in pairwise(report.phases))
    used = loading.moments().used
    assert list(used) == [name for name in loading.order if name in used]
    loading.sleep()
    loading.wake()
    loading.wait(timeout=60)
    assert phases.report().loads == (load,), "a later load is no cold start"


def test_a_load_that_is_cancelled_never_becomes_resident(build, model_path, stalled_engine):
    phases = streamload.ColdStartRecorder()
    with (
        streamload.open(model_path) as checkpoint,
        stream_module(build("meta"), checkpoint, "cpu", engine=stalled_engine) as loading,
    ):
        phases.watch(loading)
        loading.cancel()
    report = phases.report()
    assert "all_resident" not in report.reached
    assert report.loads[0].stats.bytes_resident < report.loads[0].stats.bytes_total


def test_a_warm_up_runs_while_weights_arrive(build, model_path):
    phases = streamload.ColdStartRecorder()
    model = build("meta")
    with streamload.open(model_path) as checkpoint:
        engine = CopyEngine(HostDevice(link_bytes_per_second=4e5))  # a second for all of it
        loading = stream_module(model, checkpoint, "cpu", engine=engine)
    model.streamload = loading
    phases.watch(loading)
    assert loading.progress() < 1
    found = streamload.warmup(model, batch_sizes=(1, 2), sequence_lengths=(4, 12), repeat=2, phases=phases)
    loading.wait(timeout=60)
    shapes = [(shape.batch_size, shape.sequence_length) for shape in found.shapes]
    assert shapes == [(2, 12), (1, 12), (2, 4), (1, 4)]
    first = found.shapes[0]
    assert 0 < first.waiting_seconds < first.first_seconds
    assert all(shape.stable_seconds > 0 for shape in found.shapes)
    assert all(shape.waiting_seconds == 0 for shape in found.shapes[1:]), "all was there after the first pass"
    assert phases.seconds_to("warm_up") is not None
    details = {phase.detail for phase in phases.report().phases if phase.name == "warm_up" and phase.detail}
    assert details == {"2 × 12", "1 × 12", "2 × 4", "1 × 4"}
    assert found.table().splitlines()[0].split() == ["batch", "×", "tokens", "first", "waited", "compiled", "stable"]
    assert json.loads(json.dumps(found.as_dict()))["shapes"][0]["batch_size"] == 2


def test_a_warm_up_counts_compilations_of_its_own(reference):
    import torch._dynamo

    torch._dynamo.reset()
    phases = streamload.ColdStartRecorder()
    model = torch.compile(reference.head, backend="eager", dynamic=False)
    make = lambda batch, length: (torch.zeros(batch, length, 48),)  # noqa: E731
    handlers = torch._dynamo.callback.callback_handler
    before = (list(handlers.start_callbacks), list(handlers.end_callbacks))
    found = streamload.warmup(model, batch_sizes=(1, 3), sequence_lengths=(2,), inputs=make, phases=phases)
    assert all(0 < shape.compile_seconds < shape.first_seconds for shape in found.shapes)
    assert phases.report().totals()["compilation"] > 0
    again = streamload.warmup(model, batch_sizes=(1, 3), sequence_lengths=(2,), inputs=make)
    assert all(shape.compile_seconds == 0 for shape in again.shapes)
    assert (handlers.start_callbacks, handlers.end_callbacks) == before
    torch._dynamo.reset()


@pytest.mark.parametrize("wrong", [{"batch_sizes": ()}, {"sequence_lengths": (0,)}, {"repeat": 0}])
def test_a_warm_up_refuses_what_is_no_shape(reference, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        streamload.warmup(reference, **wrong)


def test_recorders_may_be_used_by_many_threads():
    phases = streamload.ColdStartRecorder()
    barrier = threading.Barrier(8)

    def record(number):
        barrier.wait()
        for step in range(200):
            with phases.phase(f"phase {number}"):
                phases.reached(f"{number} {step}")

    threads = [threading.Thread(target=record, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = phases.report()
    assert len(report.reached) == 1 + 8 * 200
    assert report.seconds <= time.monotonic()
    assert sum(phase.seconds for phase in report.phases) == pytest.approx(report.seconds)


def test_a_load_writes_a_trace_of_its_reads_and_copies(build, model_path, slow_engine, tmp_path):
    model = build("meta")
    with streamload.open(model_path) as checkpoint:
        layers = {layer.name for layer in checkpoint.layers}
        loading = stream_module(model, checkpoint, "cpu", engine=slow_engine)
    with torch.no_grad():
        model(torch.arange(24).view(2, 12))
    loading.wait(timeout=60)
    loading.write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    stats = loading.stats()
    for lane, nbytes in (("read", stats.bytes_read), ("copy", stats.bytes_read)):
        own = [event for event in spans if event["cat"] == lane]
        assert sum(event["args"]["bytes"] for event in own) == nbytes
        assert {event["name"] for event in own} == layers
    assert {event["name"] for event in spans if event["cat"] == "compute"} <= layers
    instants = {event["name"] for event in events if event["ph"] == "i"}
    assert {"submitted", "headers read", *(f"{layer} resident" for layer in layers)} <= instants
    assert all(event["ts"] >= 0 for event in events if event["ph"] != "M")
    for _, own in itertools.groupby(sorted(spans, key=itemgetter("tid", "ts")), key=itemgetter("tid")):
        assert all(one["ts"] + one["dur"] <= after["ts"] + 1 for one, after in pairwise(own))  # rounded
    assert [path.name for path in tmp_path.iterdir() if "trace" in path.name] == ["trace.json"]
