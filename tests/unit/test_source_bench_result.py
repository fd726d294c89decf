"""Ratios of the source benchmark, what its JSON and its table say, and the marks they are held against."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest

from streamload._machine import MachineFacts
from streamload.bench import BenchError
from streamload.bench._source._process import Transfer
from streamload.bench._source._result import SourceBench, SourceScore

MACHINE = MachineFacts("Linux", "a processor", 2, 1 << 30, "3.11", "0.1", "release", None, {}, None, None)


def score(name: str, role: str, seconds: float, cpu: float, kind: str = "ranges", **more: object) -> SourceScore:
    one = Transfer(seconds=seconds, cpu_seconds=cpu, page_faults=500, peak_memory_bytes=100, **more)
    return SourceScore(name=name, role=role, kind=kind, idle=(one, one), busy=(replace(one, seconds=seconds * 1.25),))


BENCH = SourceBench(
    url="s3://bucket/model",
    nbytes=2_000_000_000,
    objects=4,
    range_bytes=8 << 20,
    connections=8,
    staging_cap_bytes=200,
    rounds=2,
    served_here=True,
    scores=(
        score("raw sockets", "ceiling", 1.0, 0.4),
        score("streamload, into place", "streamload", 1.1, 0.6, first_layer_seconds=0.05),
        score("streamload, through the ring", "streamload", 1.2, 0.7),
        score("obstore", "peer", 2.2, 1.2),
        score("download, then load", "peer", 4.4, 3.0, kind="whole load"),
        SourceScore(name="s3fs", role="peer", kind="ranges", cannot_run="s3fs is not installed"),
    ),
    left_out=("others not beside a busy main thread",),
    command="streamload bench source",
    machine=MACHINE,
)


def test_ratios_are_those_of_medians():
    assert BENCH.ratios() == pytest.approx(
        {
            "rate_to_raw_sockets": 1 / 1.1,
            "cpu_to_raw_sockets": 1.5,
            "ring_rate_to_raw_sockets": 1 / 1.2,
            "ring_cpu_to_raw_sockets": 1.75,
            "rate_to_best_peer": 2.0,
            "cpu_to_best_peer": 0.5,
            "busy_to_idle": 0.8,
            "page_faults_per_gb": 250,
            "ring_peak_memory_to_staging_cap": 0.5,
            "seconds_to_download_then_load": 0.25,
        }
    )


def test_what_was_not_measured_has_no_ratio():
    alone = replace(BENCH, scores=(BENCH.scores[1],))
    assert set(alone.ratios()) == {"busy_to_idle", "page_faults_per_gb"}
    assert replace(BENCH, scores=(BENCH.scores[0],)).ratios() == {}


def test_a_load_of_whole_files_is_no_peer_of_ranges():
    without = replace(BENCH, scores=tuple(s for s in BENCH.scores if s.name != "obstore"))
    assert "rate_to_best_peer" not in without.ratios()


def test_table_says_who_did_not_run_and_why():
    table = BENCH.table()
    assert "s3fs" in table
    assert "not run: s3fs is not installed" in table
    assert "1.82 GB/s" in table
    assert "a processor, 2 CPUs" in table
    assert "others not beside a busy main thread. --thorough" in table
    (row,) = (line.split() for line in table.splitlines() if line.startswith("obstore"))
    assert row[5] == "2.00"  # ours/it
    assert all(len(line) <= 120 for line in table.splitlines())


def test_json_holds_every_transfer_and_a_debug_build_writes_none(tmp_path):
    BENCH.write(tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["kind"] == "bench source"
    assert found["ratios"]["busy_to_idle"] == pytest.approx(0.8)
    assert len(found["scores"][1]["idle"]) == 2
    debug = replace(BENCH, machine=replace(MACHINE, native_build="debug"))
    with pytest.raises(BenchError, match="debug build"):
        debug.write(tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


@pytest.fixture
def marks(repository):
    spec = importlib.util.spec_from_file_location("source_marks", repository / "benchmarks" / "source" / "marks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_marks_are_held_and_missed(marks, tmp_path, capsys):
    BENCH.write(tmp_path / "good.json")
    assert marks.main([str(tmp_path / "good.json")]) == 0
    slow = replace(BENCH, scores=(BENCH.scores[0], score("streamload, into place", "streamload", 1.3, 0.9)))
    slow.write(tmp_path / "slow.json")
    assert marks.main([str(tmp_path / "slow.json")]) == 1
    said = capsys.readouterr().out
    assert "MISSED rate, over raw sockets" in said
    assert "MISSED CPU per GB, over raw sockets'" in said
    assert "not measured" in said


def test_no_mark_applies_to_a_server_elsewhere(marks, tmp_path, capsys):
    replace(BENCH, served_here=False).write(tmp_path / "far.json")
    assert marks.main([str(tmp_path / "far.json")]) == 2
