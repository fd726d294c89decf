"""The engine benchmark: what it measures, writes, and refuses to write."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from streamload import _native
from streamload._machine import cached_fraction
from streamload.bench import BenchError, EngineBench, run_engine_bench
from streamload.bench._ceiling import copy_from_mappings, cut_pieces, read_pieces
from streamload.bench._result import Score, cache_state
from streamload.bench._rounds import CannotRun, Contestant, run_rounds
from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

SHAPE = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=128, vocab=256, dtype="F32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    return make_checkpoint(tmp_path_factory.mktemp("bench"), SHAPE, shards=2)


@pytest.fixture(scope="module")
def result(checkpoint) -> EngineBench:
    """One small benchmark, run once for all tests."""
    return run_engine_bench(checkpoint, repeat=3, command="streamload bench engine")


def test_every_contestant_ran_every_round(result):
    assert len(result.scores) == 7
    for score in result.scores:
        assert score.cannot_run == ""
        assert len(score.seconds) == len(score.cpu_seconds) == 3
        assert min(score.seconds) > 0
    assert {score.role for score in result.scores} == {"ceiling", "streamload", "peer"}


def test_ratios_are_to_the_ceiling_and_the_best_peer(result):
    ratios = result.ratios()
    assert set(ratios) == {
        f"{target}_to_{other}" for target in ("existing", "new") for other in ("ceiling", "best_peer")
    }
    ceiling, ours = result.best("ceiling"), result.best("streamload", "existing")
    assert ratios["existing_to_ceiling"] == ours.rate(result.nbytes) / ceiling.rate(result.nbytes)
    assert ceiling.rate(result.nbytes) == max(s.rate(result.nbytes) for s in result.scores if s.role == "ceiling")


def test_result_names_the_machine_the_cache_and_the_command(result, tmp_path):
    written = result.as_dict()
    assert json.loads(json.dumps(written))["machine"]["cpus"] >= 1
    assert written["cache"] == "warm"
    assert written["command"] == "streamload bench engine"
    assert written["machine"]["versions"]["torch"] == torch.__version__
    released = replace(result, machine=replace(result.machine, native_build="release"))
    released.write(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["kind"] == "bench engine"


def test_debug_build_writes_no_result(result, tmp_path):
    debug = replace(result, machine=replace(result.machine, native_build="debug"))
    with pytest.raises(BenchError, match="debug build"):
        debug.write(tmp_path / "result.json")
    assert not (tmp_path / "result.json").exists()


def test_command_prints_a_table_and_writes_json(checkpoint, tmp_path):
    path = tmp_path / "out.json"
    arguments = ["bench", "engine", str(checkpoint), "--repeat", "1", "--json", str(path)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    if _native.build_type != "release":
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    for word in ("ceiling", "streamload", "peer", "preadv", "safetensors", "torch.load", "existing to ceiling"):
        assert word in done.output
    assert json.loads(path.read_text())["rounds"] == 1


def test_cold_cache_is_verified_or_called_unverified(checkpoint):
    cold = run_engine_bench(checkpoint, repeat=1, cold=True)
    if cached_fraction(next(checkpoint.glob("*.safetensors"))) is None:
        assert cold.cache == "cold, unverified"
    else:
        assert cold.cache in ("cold", "mixed")  # tmpfs keeps its pages
        assert all(0 <= part <= 1 for part in cold.cached)


def test_cache_is_named_by_what_was_found():
    assert cache_state(asked_cold=False, cached=[1.0, None]) == "warm"
    assert cache_state(asked_cold=False, cached=[1.0, 0.5]) == "mixed"
    assert cache_state(asked_cold=True, cached=[0.0, 0.0]) == "cold"
    assert cache_state(asked_cold=True, cached=[0.0, 0.5]) == "mixed"
    assert cache_state(asked_cold=True, cached=[0.0, None]) == "cold, unverified"


def test_device_that_does_not_exist_is_refused(checkpoint):
    with pytest.raises(BenchError, match="abacus"):
        run_engine_bench(checkpoint, device="abacus")


@pytest.mark.parametrize("move", [read_pieces, copy_from_mappings])
def test_ceilings_move_the_right_bytes(tmp_path, move):
    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_bytes(bytes(range(256)) * 40_000)
    files[1].write_bytes(b"other" * 1000)
    target = torch.zeros(5_000_000, dtype=torch.uint8)
    pieces = cut_pieces([(0, 3, 4_900_000, target.data_ptr()), (1, 5, 105, target.data_ptr() + 4_900_000)])
    assert len(pieces) == 4
    move(files, pieces, 2)
    assert bytes(target[:300].numpy()) == (bytes(range(256)) * 2)[3:303]
    assert bytes(target[4_900_000:4_900_100].numpy()) == b"other" * 20


def test_contestant_that_cannot_run_says_why():
    def refuse():
        raise CannotRun("no such format")

    contestants = [Contestant("a", "peer", "new", refuse), Contestant("b", "peer", "new", lambda: None)]
    scores = run_rounds(contestants, 2, prepare=lambda: None, synchronize=lambda: None, progress=lambda: None)
    assert scores[0] == Score(name="a", role="peer", target="new", cannot_run="no such format")
    assert len(scores[1].seconds) == 2


def test_rounds_take_turns_in_who_goes_first():
    order = []
    contestants = [Contestant(name, "peer", "new", lambda name=name: order.append(name)) for name in "abc"]
    run_rounds(contestants, 3, prepare=lambda: None, synchronize=lambda: None, progress=lambda: None)
    assert order == list("abc") + list("bca") + list("cab")
