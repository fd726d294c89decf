"""The benchmark of `from_pretrained` from end to end, small enough for a test."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from streamload import _native
from streamload.bench import BenchError, PretrainedSettings, run_pretrained_bench
from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

from ..timelines import check_timeline, check_trace_file

SHAPE = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=128, vocab=256, dtype="F32")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    pytest.importorskip("transformers")
    return make_checkpoint(tmp_path_factory.mktemp("pretrained"), SHAPE, shards=2)


def test_command_measures_prints_a_table_and_writes_json(checkpoint, tmp_path):
    path, trace = tmp_path / "out.json", tmp_path / "trace.json"
    arguments = ["bench", "from_pretrained", str(checkpoint), "--repeat", "1", "--json", str(path)]
    done = CliRunner().invoke(main, [*arguments, "--trace", str(trace)], catch_exceptions=False)
    if _native.build_type != "release":
        assert done.exit_code == 2
        assert "build" in done.output
        return
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if len(line) > 100 and "written to" not in line] == []
    result = json.loads(path.read_text())
    assert result["kind"] == "bench from_pretrained"
    assert (result["model"], result["dtype"], result["pairs"]) == ("LlamaForCausalLM", "float32", 1)
    assert result["nbytes"] == SHAPE.nbytes
    assert result["cache"] == "warm"
    assert len(result["cached"]) == 4
    for way in ("stock", "streamed"):
        times = result[way]
        assert len(times["return_seconds"]) == 2
        assert len(times["first_token_seconds"]) == len(times["resident_seconds"]) == 1
        assert times["first_token_seconds"][0] > times["return_seconds"][0] > 0
        assert times["resident_seconds"][0] >= times["return_seconds"][1]
    assert result["stock"]["copied_seconds"][0] > result["stock"]["resident_seconds"][0]
    assert result["streamed"]["copied_seconds"] == []
    stock, streamed = result["timelines"]
    check_timeline(stock, 0, "read", "compute")  # mapped files: what is read when, nobody knows
    check_timeline(streamed, SHAPE.nbytes, "read", "copy", "compute")
    (call,) = [span for span in stock["spans"] if span["lane"] == "read"]
    assert (call["layer"], call["start"]) == ("from_pretrained", 0)
    for timeline in (stock, streamed):
        (_, returned), (_, first_token) = timeline["instants"]
        assert 0 < returned < first_token
        computed = {span["layer"] for span in timeline["spans"] if span["lane"] == "compute"}
        assert computed >= {f"model.layers.{layer}" for layer in range(SHAPE.layers)}
    assert list(check_trace_file(trace)) == ["stock, 16 tokens", "streamed, 16 tokens"]


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    pytest.importorskip("transformers")
    make_checkpoint(tmp_path, SHAPE, shards=1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(BenchError, match="causal language model is wanted"):
        run_pretrained_bench(PretrainedSettings(path=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--json", "nowhere/out.json"), "no such folder"), (("--device", "gpu"), "device must be")],
)
def test_what_cannot_be_measured_is_refused(arguments, words):
    done = CliRunner().invoke(main, ["bench", "from_pretrained", *arguments])
    assert done.exit_code == 2
    assert words in done.output
