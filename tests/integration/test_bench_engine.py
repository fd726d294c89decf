"""The engine benchmark: what it measures, checks, and says of what it cannot measure."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from streamload import _native
from streamload._checkpoint import open as open_checkpoint
from streamload._machine import cached_fraction
from streamload.bench import BenchError, EngineBench, ManyTensorsBench, run_engine_bench, run_many_tensors_bench
from streamload.bench._ceiling import Buffer, copy_from_mappings, cut_pieces, read_pieces
from streamload.bench._ceiling_drive import read_around_the_cache, reads_directly
from streamload.bench._ceiling_ring import copy_by_another, copy_by_each
from streamload.bench._course import open_course
from streamload.bench._peers import peers
from streamload.bench._peers._peer import peer
from streamload.bench._planning import measure_planning, write_hollow_file
from streamload.bench._rounds import Conditions, Outcome, run_rounds
from streamload.bench._shapes import expert_names, make_moe_checkpoint
from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

from ..timelines import check_timeline

SHAPE = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=128, vocab=256, dtype="F32")
PEERS = (
    *("safetensors", "safetensors prefetch", "torch.load(mmap=True)", "fastsafetensors"),
    *("runai-model-streamer", "tensorizer", "InstantTensor"),
)
ALWAYS_HERE = ("safetensors", "torch.load(mmap=True)")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    return make_checkpoint(tmp_path_factory.mktemp("bench"), SHAPE, shards=2)


@pytest.fixture(scope="module")
def result(checkpoint) -> EngineBench:
    """One small benchmark, run once for all tests."""
    return run_engine_bench(checkpoint, repeat=3, command="streamload bench engine")


def test_ceilings_and_streamload_ran_every_round_into_every_target(result):
    ran = [score for score in result.scores if score.role != "peer"]
    assert {(score.role, score.target) for score in ran} == {
        *(("ceiling", "existing"), ("ceiling", "ring")),
        *(("streamload", "existing"), ("streamload", "new"), ("streamload", "ring")),
    }
    for score in ran:
        assert (score.cannot_run, score.wrong) == ("", "")
        assert len(score.seconds) == len(score.cpu_seconds) == 3
        assert min(score.seconds) > 0


def test_a_load_each_way_has_a_timeline(result):
    in_place, ring = result.as_dict()["timelines"]
    assert (in_place["title"], ring["title"]) == ("streamload, into place", "streamload, through the ring")
    for timeline in (in_place, ring):
        check_timeline(timeline, result.nbytes, "read", "copy")
        assert {f"model.layers.{layer}" for layer in range(SHAPE.layers)} < set(timeline["layers"])


def test_every_peer_is_listed_twice_and_ran_or_says_why(result):
    listed = [score for score in result.scores if score.role == "peer"]
    assert [score.name for score in listed] == [
        f"{name}, {target} memory" for name in PEERS for target in ("existing", "new")
    ]
    for score in listed:
        assert score.wrong == ""
        assert bool(score.seconds) != bool(score.cannot_run), score
    assert all(score.seconds for score in listed if score.name.partition(",")[0] in ALWAYS_HERE)


def test_what_streamload_decided_is_told(result):
    by_name = {score.name: score for score in result.scores}
    fill, ring = by_name["fill"].stats, by_name["fill through the ring"].stats
    assert fill["bytes_read"] == ring["bytes_read"] == result.nbytes
    assert fill["in_place_bytes"] == result.nbytes
    assert ring["in_place_bytes"] == 0
    assert len(by_name["fill"].first_byte_seconds) == 3
    assert len(result.fixed_cost_seconds) == 3


def test_result_names_the_machine_the_cache_and_the_command(result):
    written = json.loads(json.dumps(result.as_dict()))
    assert written["machine"]["cpus"] >= 1
    assert written["cache"] == "warm"
    assert written["command"] == "streamload bench engine"
    assert written["machine"]["versions"]["torch"] == torch.__version__


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


@pytest.mark.parametrize(
    "arguments", [("--tensors", "10", "PATH"), ("--many-tensors", "PATH"), ("--many-tensors", "--cold")]
)
def test_options_that_do_not_go_together_are_refused(checkpoint, arguments):
    words = [str(checkpoint) if word == "PATH" else word for word in arguments]
    assert CliRunner().invoke(main, ["bench", "engine", *words]).exit_code == 2


def test_cold_cache_is_verified_or_called_unverified(checkpoint):
    cold = run_engine_bench(checkpoint, repeat=1, cold=True)
    file = next(checkpoint.glob("*.safetensors"))
    if cached_fraction(file) is None:
        assert cold.cache == "cold, unverified"
    else:
        assert cold.cache in ("cold", "mixed")  # tmpfs keeps its pages
        assert all(0 <= part <= 1 for part in cold.cached)
    drives = [score for score in cold.scores if score.target == "drive"]
    assert drives
    assert all(bool(score.seconds) == reads_directly([file]) for score in drives)


def test_device_that_does_not_exist_is_refused(checkpoint):
    for run in (lambda: run_engine_bench(checkpoint, device="abacus"), lambda: run_many_tensors_bench(device="abacus")):
        with pytest.raises(BenchError, match="abacus"):
            run()


def test_a_number_of_tensors_does_not_go_with_a_path(checkpoint):
    with pytest.raises(BenchError, match="leave out the path"):
        run_engine_bench(checkpoint, tensors=10)


def each(files, pieces):
    copy_by_each(files, pieces, [Buffer(2 << 20) for _ in range(2)])


def another(files, pieces):
    copy_by_another(files, pieces, [Buffer(2 << 20) for _ in range(4)])


@pytest.mark.parametrize(
    "move",
    [lambda files, pieces: read_pieces(files, pieces, 2), lambda f, p: copy_from_mappings(f, p, 2), each, another],
    ids=["read", "mapped", "each", "another"],
)
def test_ceilings_move_the_right_bytes(tmp_path, move):
    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_bytes(bytes(range(256)) * 40_000)
    files[1].write_bytes(b"other" * 1000)
    target = torch.zeros(5_000_000, dtype=torch.uint8)
    pieces = cut_pieces([(0, 3, 4_900_000, target.data_ptr()), (1, 5, 105, target.data_ptr() + 4_900_000)])
    assert len(pieces) == 4
    move(files, pieces)
    assert bytes(target[:300].numpy()) == (bytes(range(256)) * 2)[3:303]
    assert bytes(target[4_899_995:4_900_100].numpy()) == bytes([158, 159]) + b"\0" * 3 + b"other" * 20


@pytest.mark.parametrize("move", [each, another])
def test_a_ceiling_that_comes_short_raises(tmp_path, move):
    file = tmp_path / "short"
    file.write_bytes(b"x" * 1000)
    target = torch.zeros(2000, dtype=torch.uint8)
    with pytest.raises(OSError, match="got 1000 of 2000 bytes"):
        move([file], cut_pieces([(0, 0, 2000, target.data_ptr())]))


def test_the_drive_is_read_to_the_last_byte(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 4095 + b"y" * 8194)
    if not reads_directly([file]):
        pytest.skip("the file system has no direct reads")
    buffers = [Buffer(8192), Buffer(8192)]
    read_around_the_cache([file], buffers)
    assert buffers[0].memory[:8192] == b"x" * 4095 + b"y" * 4097
    assert buffers[1].memory[:4097] == b"y" * 4097


def lying(course, *, keep):
    """A loader whose last tensor has one bit wrong."""

    def load():
        *right, (name, tensor) = ((name, tensor.clone()) for name, tensor in course.existing.items())
        yield from right
        tensor.view(torch.uint8).view(-1)[-1] ^= 1
        yield name, tensor

    return load


def forgetful(course, *, keep):
    return lambda: list(course.existing.items())[1:]


def test_peers_with_wrong_bytes_are_found_out(checkpoint, tmp_path):
    course = open_course(checkpoint, "cpu", tmp_path)
    entered = [*peer("lying", course, lying), *peer("forgetful", course, forgetful)]
    scores = run_rounds([replace(one, judge=course) for one in entered], 1, Conditions())
    for one in scores:
        assert (one.seconds, one.cannot_run) == ((), "")
        assert "came out" in one.wrong


def test_bytes_left_in_existing_memory_cannot_pass_for_a_peers(checkpoint, tmp_path):
    course = open_course(checkpoint, "cpu", tmp_path)
    first, idle = peers(course)[0], peer("idle", course, lambda course, *, keep: lambda: [])[0]
    right, wrong = run_rounds([replace(one, judge=course) for one in (first, idle)], 1, Conditions())
    assert right.wrong == ""
    assert wrong.wrong
    assert course.find_wrong(Outcome(None)) == ""


def test_a_moe_checkpoint_has_as_many_tensors_as_asked_for(tmp_path):
    directory = make_moe_checkpoint(tmp_path / "moe", 1000, nbytes=1 << 20)
    with open_checkpoint(directory) as opened:
        assert list(opened) != []
        assert len(opened) == 1000
        assert set(opened) == set(expert_names(1000))
        assert {info.nbytes for info in opened.values()} == {1024}
        assert len(opened.layers) == 3  # of 384 tensors each


def test_a_checkpoint_of_many_tensors_can_be_made_for_the_race(monkeypatch):
    small = partial(make_moe_checkpoint, nbytes=1 << 20)
    monkeypatch.setattr("streamload.bench._engine.make_moe_checkpoint", small)
    assert run_engine_bench(repeat=1, tensors=50).tensors == 50


def test_planning_is_measured_over_a_file_without_weights(tmp_path):
    file = tmp_path / "hollow.safetensors"
    write_hollow_file(file, expert_names(500))
    cost = measure_planning(file, 2)
    assert cost.tensors == 500
    assert len(cost.open_seconds) == len(cost.plan_seconds) == 2
    assert cost.plan_microseconds_per_tensor > 0
    assert file.stat().st_blocks * 512 < 500 * 4096  # a hole


def test_many_tensors_are_compared_with_few():
    found = run_many_tensors_bench(repeat=1, counts=(10, 200), planned=300, nbytes=1 << 20, command="x")
    assert isinstance(found, ManyTensorsBench)
    assert found.tensors == (10, 200)
    assert set(found.ratios()) >= {"existing", "new", "ring"}
    assert found.planning.tensors == 300
    assert "200 tensors" in found.table()
    assert json.loads(json.dumps(found.as_dict()))["command"] == "x"
