"""`streamload coldstart` around the example's server: phases that add up, metrics, readiness while it loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise

import pytest

from ...servers.example import PROGRAM, ExampleServer
from ...servers.processes import accepts, free_port

pytest.importorskip("torch")
pytest.importorskip("transformers")
parser = pytest.importorskip("prometheus_client.parser")

pytestmark = pytest.mark.slow

BYTES_PER_SECOND = 2.5e6  # the model takes 8 seconds
OFF_BY = 0.02  # of the wall time


@pytest.fixture
def measured(tmp_path):
    """A function that starts a server below `streamload coldstart`; all it started is gone at the end of the test."""
    started = []

    def measured(place, *options: str, warm_up=0):
        port = free_port()
        own = [
            sys.executable,
            str(PROGRAM),
            str(place),
            "--device",
            "cpu",
            "--port",
            str(port),
            "--warm-up",
            str(warm_up),
        ]
        command = [sys.executable, "-m", "streamload", "coldstart", *options, "--", *own]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        server = ExampleServer(process, port)
        server.wait_until(lambda: accepts(port))
        return server

    yield measured
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def assert_adds_up(report):
    phases = report["phases"]
    assert phases[0]["start"] == 0
    assert all(one["end"] == after["start"] for one, after in pairwise(phases))
    assert sum(phase["end"] - phase["start"] for phase in phases) == pytest.approx(report["wall_seconds"], rel=OFF_BY)


def test_phases_of_a_server_add_up_to_the_wall_time(behind_link, measured, tmp_path):
    server = measured(
        behind_link(BYTES_PER_SECOND), "--stop", "--json", f"{tmp_path}/report", "--prometheus", f"{tmp_path}/metrics"
    )
    status, said = server.get("/health/ready")
    assert (status, said["state"]) == (503, "started")
    assert server.wait_for("can serve") == (200, {"state": "can serve"})
    assert server.complete([1, 2, 3], 1)[0] == 200
    assert server.process.wait(60) == 0
    report = json.loads((tmp_path / "report").read_text())
    assert_adds_up(report)
    order = ["process_start", "imports", "headers", "first_byte"]
    assert [name for name in report["totals"] if name in order] == order
    assert {"submitted", "first_byte", "first_token", "all_resident"} <= set(report["reached"])
    assert any(phase["detail"].startswith("transformers") for phase in report["phases"])
    (load,) = report["loads"]
    assert load["stats"]["bytes_resident"] == load["stats"]["bytes_total"] > 0
    assert load["submitted"] < load["first_byte"] <= min(load["layers"].values()) + 1e-6
    assert max(load["layers"].values()) == pytest.approx(load["all_resident"], abs=0.05)
    assert len(load["layers"]) == 6 + 3  # and the embedding, the norm, the head
    families = list(parser.text_string_to_metric_families((tmp_path / "metrics").read_text()))
    samples = {(sample.name, *sample.labels.values()): sample.value for one in families for sample in one.samples}
    phases = [value for key, value in samples.items() if key[0] == "streamload_phase_seconds"]
    assert sum(phases) == pytest.approx(report["seconds"])
    assert samples["streamload_load_requests_total", "model"] == load["stats"]["requests"] > 0
    log = (tmp_path / "log").read_text()
    assert "wall time" in log
    assert "layer resident" in log
    assert "\x1b" not in log


def test_a_server_runs_on_and_a_signal_is_passed_on(folder, measured, tmp_path):
    server = measured(folder, "--json", f"{tmp_path}/report")
    server.wait_for("can serve", "all resident")
    assert server.complete([1, 2, 3], 1)[0] == 200
    server.wait_for("all resident")
    server.wait_until((tmp_path / "report").exists)
    assert server.complete([1, 2, 3], 1)[0] == 200, "it should have run on"
    assert_adds_up(json.loads((tmp_path / "report").read_text()))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) in (0, 128 + signal.SIGTERM)
    with pytest.raises(OSError, match="refused"):
        server.get("/health/live")


def test_a_warm_up_comes_before_readiness_and_is_a_phase(behind_link, measured, tmp_path):
    server = measured(behind_link(BYTES_PER_SECOND), "--until", "warm_up", "--json", f"{tmp_path}/report", warm_up=64)
    while (said := server.get("/health/ready"))[0] == 503:
        assert said[1]["state"] == "started"
    server.wait_until((tmp_path / "report").exists)
    report = json.loads((tmp_path / "report").read_text())
    assert_adds_up(report)
    warming = {phase["detail"] for phase in report["phases"] if phase["name"] == "warm_up"}
    assert "1 × 64" in warming
    assert warming <= {"1 × 64", ""}, "what led to the end of the warm-up is it, too"
    assert report["loads"][0]["stats"]["stall_seconds"] > 0, "it should have begun while weights arrived"


def test_the_library_and_the_command_tell_the_same(folder, measured, tmp_path):
    server = measured(folder, "--json", f"{tmp_path}/report")
    server.wait_for("can serve", "all resident")
    server.complete([1, 2, 3], 1)
    server.wait_until((tmp_path / "report").exists)
    reached = json.loads((tmp_path / "report").read_text())["reached"]
    for name in ("submitted", "first_byte", "first_token", "all_resident"):
        assert server.phase(name) == pytest.approx(reached[name], abs=0.05), name  # times of day are set, and rounded
