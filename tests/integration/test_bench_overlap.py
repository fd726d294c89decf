"""The overlap benchmark from end to end, small enough for a test."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from streamload import _native
from streamload.bench import BenchError, OverlapSettings, run_overlap_bench
from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

from ..timelines import check_timeline, check_trace_file

SHAPE = LlamaShape(layers=6, hidden=64, heads=4, kv_heads=2, intermediate=128, vocab=256, dtype="F32")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    pytest.importorskip("transformers")
    return make_checkpoint(tmp_path_factory.mktemp("overlap"), SHAPE, shards=2)


def test_command_measures_prints_a_table_and_writes_json(checkpoint, tmp_path):
    path = tmp_path / "out.json"
    arguments = ["bench", "overlap", str(checkpoint), "--repeat", "1", "--tokens", "16,4", "--link", "0.02"]
    trace = tmp_path / "trace.json"
    done = CliRunner().invoke(main, [*arguments, "--json", str(path), "--trace", str(trace)], catch_exceptions=False)
    if _native.build_type != "release":
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if len(line) > 100 and "written to" not in line] == []
    result = json.loads(path.read_text())
    assert result["kind"] == "bench overlap"
    assert result["simulated_link"] == 2e7
    assert [case["tokens"] for case in result["cold"]] == [4, 16]
    for case in result["cold"]:
        assert len(case["streamed_seconds"]) == len(case["compute_seconds"]) == len(case["usual_seconds"]) == 1
        # The link is a floor under every way to load; nothing is faster than the pace it keeps.
        floor = 0.9 * result["nbytes"] / result["simulated_link"]
        assert min(case["streamed_seconds"] + case["usual_seconds"]) > floor
        assert set(case["layer_compute_seconds"]) >= {f"model.layers.{layer}" for layer in range(SHAPE.layers)}
        assert case["layer_streamed_seconds"].keys() == case["layer_compute_seconds"].keys()
        assert min(case["predicted_seconds"]) > floor
    oversized = result["oversized"]
    assert oversized["streamed_bytes"] > 0.2 * result["nbytes"]
    passed = [nbytes / oversized["decode_passes"] for nbytes in oversized["decode_bytes"]]
    assert min(passed) > 0.8 * oversized["streamed_bytes"]  # fills under way at either end are counted at one of them
    assert oversized["tokens"] == 16
    assert len(oversized["prompt_seconds"]) == len(oversized["resident_seconds"]) >= 6
    assert len(oversized["prompt_link_bytes_per_second"]) == 2
    assert min(result["wake"]["wake_seconds"]) > 0.9 * result["nbytes"] / result["simulated_link"]
    for peer in result["peers"]:
        assert bool(peer["first_token_seconds"]) != bool(peer["cannot_run"]), peer
        assert peer["role"] == "peer" or peer["output"] == "equal"
    assert [peer["name"].split()[0].strip(",") for peer in result["peers"]] == [
        *["streamload"] * 2,
        *["accelerate"] * 3,
        *["diffusers"] * 4,
    ]
    steady = result["steady"]
    assert len(steady["ratios"]) == 2 * len(steady["controls"]) == steady["pairs"]
    assert result["simulated_compute"] is None  # a model of one's own computes
    usual, streamed = result["timelines"]
    assert usual["title"].startswith("every weight first, ")
    assert streamed["title"].startswith("streamed, ")
    for timeline in (usual, streamed):
        check_timeline(timeline, result["nbytes"], "read", "copy", "compute")
        assert [name for name, _ in timeline["instants"]] == ["load call returned", "first token"]
    assert max(_times(usual, "copy", "end")) <= min(_times(usual, "compute")), "it waits for every weight"
    assert min(_times(streamed, "compute")) < max(_times(streamed, "copy", "end"))
    assert list(check_trace_file(trace)) == [usual["title"], streamed["title"]]


def _times(timeline, lane, key="start"):
    return [span[key] for span in timeline["spans"] if span["lane"] == lane]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tokens", "4,x"), "whole numbers"),
        (("--tokens", "0"), "at least one token"),
        (("--json", "nowhere/out.json"), "no such folder"),
        (("--device", "gpu"), "device must be"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, words):
    done = CliRunner().invoke(main, ["bench", "overlap", *arguments])
    assert done.exit_code == 2
    assert words in done.output


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BenchError, match="device must be"):
        run_overlap_bench(OverlapSettings(device="nowhere"))
