"""`streamload bench compare` on a small checkpoint: every loader is there, warm and cold, or says why not."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from streamload import _native
from streamload.bench import BenchError, CompareSettings, result_schema, run_compare_bench
from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

from ..timelines import check_timeline, check_trace_file

SHAPE = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=128, vocab=256, dtype="F32")
LOADERS = {
    *("iter_tensors", "safetensors", "safetensors prefetch", "torch.load(mmap=True)", "fastsafetensors"),
    *("runai-model-streamer", "tensorizer", "InstantTensor"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    pytest.importorskip("torch")
    return make_checkpoint(tmp_path_factory.mktemp("compare"), SHAPE, shards=2)


@pytest.fixture(scope="module")
def result(checkpoint):
    """One small comparison, run once for all tests."""
    return run_compare_bench(CompareSettings(path=checkpoint, repeat=2, command="streamload bench compare"))


def test_every_loader_is_listed_warm_and_cold_and_ran_or_says_why(result):
    assert list(result.sides) == ["warm", "cold"]
    for side in result.sides.values():
        assert {score.name for score in side.scores if score.role != "ceiling"} == LOADERS
        for score in side.scores:
            assert score.wrong == ""
            assert bool(score.seconds) != bool(score.cannot_run), score
            assert len(score.seconds) in (0, 2)
        for name in ("iter_tensors", "safetensors", "torch.load(mmap=True)"):
            assert side.score(name).seconds


def test_ceilings_are_memory_when_warm_and_the_drive_when_cold(result):
    targets = {when: {s.target for s in side.scores if s.role == "ceiling"} for when, side in result.sides.items()}
    assert targets == {"warm": {"existing"}, "cold": {"existing", "drive"}}
    assert {"warm_to_ceiling", "warm_to_best_peer", "cold_to_ceiling", "cold_to_best_peer"} == set(result.ratios())
    assert result.sides["warm"].cache == "warm"
    assert result.sides["cold"].cache in ("cold", "cold, unverified", "mixed")


def test_a_load_into_new_memory_has_a_timeline(result, tmp_path):
    (timeline,) = result.as_dict()["timelines"]
    check_timeline(timeline, result.nbytes, "read", "copy")
    result.write_trace(tmp_path / "trace.json")
    assert list(check_trace_file(tmp_path / "trace.json")) == ["streamload, into place"]


def test_one_table_has_every_loader_that_ran_and_every_reason(result):
    table = result.table()
    assert [line for line in table.splitlines() if len(line) > 100] == []
    for name in LOADERS:
        assert name in table
    for score in result.sides["warm"].scores:
        if score.cannot_run:
            assert score.cannot_run[:40] in table


def test_a_single_file_can_be_compared_cold_alone(checkpoint):
    file = next(checkpoint.glob("*.safetensors"))
    found = run_compare_bench(CompareSettings(path=file, repeat=1, cold=True))
    assert list(found.sides) == ["cold"]
    assert 0 < found.nbytes < SHAPE.nbytes


def test_the_command_prints_the_table_and_writes_what_its_schema_says(checkpoint, tmp_path):
    path = tmp_path / "compare.json"
    arguments = ["bench", "compare", str(checkpoint), "--repeat", "1", "--json", str(path)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    if _native.build_type != "release":
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    assert "streamload: measuring: " in done.stderr
    written = json.loads(path.read_text())
    pytest.importorskip("jsonschema").Draft202012Validator(result_schema("compare")).validate(written)


def test_what_cannot_be_compared_is_refused(tmp_path, checkpoint):
    with pytest.raises(BenchError, match="abacus"):
        run_compare_bench(CompareSettings(path=checkpoint, device="abacus"))
    done = CliRunner().invoke(main, ["bench", "compare", str(tmp_path / "missing")])
    assert done.exit_code == 2
    assert "missing" in done.stderr
