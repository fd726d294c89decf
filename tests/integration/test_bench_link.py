"""`streamload bench link` with small copies: what it measures, prints and writes."""

from __future__ import annotations

import ctypes
import json
from functools import partial

import pytest
from click.testing import CliRunner

import streamload.bench as bench_room
from streamload import _native
from streamload.bench import BenchError, LinkSettings, result_schema, run_link_bench
from streamload.bench._ceiling import Buffer
from streamload.bench._link._ways import LinkCourse, copy_ways
from streamload.cli import main

MIB = 1 << 20
SMALL = partial(LinkSettings, nbytes=4 * MIB, sizes=(64 << 10, MIB, 32 * MIB))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result():
    """One small benchmark, run once for all tests."""
    pytest.importorskip("torch")
    return run_link_bench(SMALL(repeat=3, command="streamload bench link"))


def test_every_way_ran_every_round_or_says_why(result):
    for figure in result.figures:
        assert figure.score.wrong == ""
        assert bool(figure.score.seconds) != bool(figure.score.cannot_run)
        assert len(figure.score.seconds) in (0, 3)
    ran = {(each.score.role, each.request_bytes) for each in result.figures if each.target == "copies" and each.rate}
    assert {(role, size) for role in ("streamload", "peer") for size in (64 << 10, MIB)} <= ran
    assert {role for role, _ in ran} == {"ceiling", "streamload", "peer"}
    assert not [each for each in result.figures if each.request_bytes == 32 * MIB]


def test_host_memory_in_place_of_a_device_is_told(result):
    assert result.stand_in
    assert "NO GPU: a stand-in" in result.table()
    assert set(result.ratios()) == {"copies_to_ceiling", "copies_to_best_peer"}
    pinning = [each for each in result.figures if each.target == "pinning"]
    assert {each.score.name.partition(",")[0] for each in pinning} == {"mlock of huge pages", "mlock of small pages"}
    assert set(result.pinning_seconds_per_gb()) == {each.score.name for each in pinning if each.score.seconds}


def test_ways_to_copy_move_every_byte():
    pytest.importorskip("torch")
    device = _native.HostDevice()
    source, target = Buffer(MIB), device.allocate(MIB)
    source.memory[:] = bytes(range(256)) * (MIB // 256)
    course = LinkCourse("cpu", device, source, target, (64 << 10,))
    moved = [way for way in copy_ways(course) if way.contestant.name.startswith(("memmove", "copies queued"))]
    assert len(moved) >= 2
    for way in moved:
        run = way.contestant.get_ready()
        ctypes.memset(target, 0, MIB)
        run()
        assert device.read_back(target, MIB) == source.memory[:]
    device.deallocate(target, MIB)


def test_nothing_is_left_on_the_device(monkeypatch):
    pytest.importorskip("torch")
    device = _native.HostDevice()
    monkeypatch.setattr("streamload.bench._link._run.open_device", lambda name: device)
    run_link_bench(SMALL(repeat=1))
    assert device.live_objects == 0


def test_the_command_prints_a_table_and_writes_what_its_schema_says(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(bench_room, "LinkSettings", SMALL)
    path = tmp_path / "link.json"
    done = CliRunner().invoke(main, ["bench", "link", "--repeat", "1", "--json", str(path)], catch_exceptions=False)
    if _native.build_type != "release":
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    assert [line for line in done.stdout.splitlines() if len(line) > 100 and "written to" not in line] == []
    assert "streamload: measuring" in done.stderr
    assert "\x1b" not in done.output
    written = json.loads(path.read_text())
    pytest.importorskip("jsonschema").Draft202012Validator(result_schema("link")).validate(written)
    assert written["rounds"] == 1


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(BenchError, match="abacus"):
        run_link_bench(SMALL(device="abacus"))
    done = CliRunner().invoke(main, ["bench", "link", "--device", "abacus"])
    assert done.exit_code == 2
    assert "device must be" in done.stderr
