"""`streamload bench storage` on small files and on a small checkpoint behind nginx."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial

import pytest
from click.testing import CliRunner

import streamload.bench as bench_room
from streamload import _native
from streamload._machine import cached_fraction
from streamload.bench import BenchError, StorageSettings, result_schema, run_storage_bench
from streamload.bench._ceiling_drive import reads_directly
from streamload.bench._storage import _bucket, _drive
from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

MIB = 1 << 20
SMALL = partial(StorageSettings, nbytes=32 * MIB)
SHAPE = LlamaShape(layers=2, hidden=64, heads=2, kv_heads=2, intermediate=128, vocab=128, dtype="F32")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files, neither a whole number of pages long, and a third that is none of weights."""
    path = tmp_path_factory.mktemp("storage")
    (path / "a.safetensors").write_bytes(os.urandom(3 * MIB + 17))
    (path / "b.safetensors").write_bytes(os.urandom(20 * MIB + 4097))
    (path / "readme.md").write_text("not weights")
    return path


@pytest.fixture(scope="module")
def result(folder):
    """One small benchmark, run once for all tests."""
    return run_storage_bench(SMALL(where=folder, repeat=2, command="streamload bench storage"))


def ran(bench, role, target):
    return [each for each in bench.figures if (each.score.role, each.target) == (role, target) and each.rate]


def test_the_drive_is_read_every_way(result, folder):
    assert (result.store, result.files) == ("drive", 2)
    assert result.nbytes == 23 * MIB + 17 + 4097
    direct = reads_directly(list(folder.glob("*.safetensors")))
    assert bool(ran(result, "ceiling", "direct")) == direct
    for target in ("buffered", "cached"):
        for role in ("ceiling", "streamload", "peer"):
            assert ran(result, role, target), (role, target)
    for figure in result.figures:
        assert figure.score.wrong == ""
        assert bool(figure.score.seconds) != bool(figure.score.cannot_run), figure
    assert {"cached_to_ceiling", "cached_to_best_peer", "buffered_to_best_peer"} <= set(result.ratios())


def test_streamload_read_around_the_cache_and_through_it_as_asked(result):
    for figure in ran(result, "streamload", "direct"):
        if figure.score.name.startswith("io_uring"):
            assert figure.score.stats["direct_bytes"] == result.nbytes
    (buffered,) = ran(result, "streamload", "buffered")
    assert buffered.score.stats["buffered_bytes"] == result.nbytes


def test_the_caches_state_is_verified_or_called_unverified(result, folder):
    known = cached_fraction(folder / "a.safetensors") is not None
    assert set(result.cache) == set(result.cached) == {"cold", "warm"}
    assert result.cache["cold"] in (("cold", "mixed") if known else ("cold, unverified",))
    assert result.cache["warm"] == "warm"


def test_cold_leaves_out_the_page_cache(folder):
    cold = run_storage_bench(SMALL(where=folder / "a.safetensors", repeat=1, cold=True))
    assert set(cold.cache) == {"cold"}
    assert not [each for each in cold.figures if each.target == "cached"]
    assert cold.files == 1


def test_more_than_may_be_read_is_read_in_part(folder):
    part = run_storage_bench(SMALL(where=folder / "b.safetensors", repeat=1, nbytes=16 * MIB))
    assert part.nbytes == 16 * MIB
    if cached_fraction(folder / "b.safetensors") is not None:
        assert part.cache["cold"] in ("cold", "mixed")
        assert part.cache["warm"] == "warm"
    assert [each.score.wrong for each in part.figures if each.score.wrong] == []


def test_wrong_bytes_end_the_benchmark(folder, monkeypatch):
    load = _drive._load

    def off_by_one(course, engine, groups):
        outcome = load(course, engine, groups)
        course.target.memory[5] ^= 1
        return outcome

    monkeypatch.setattr(_drive, "_load", off_by_one)
    with pytest.raises(BenchError, match="came out wrong"):
        run_storage_bench(SMALL(where=folder, repeat=1))


def test_what_is_not_there_is_refused(tmp_path):
    for where, words in ((tmp_path / "missing", "missing"), (tmp_path, "there is no file in it")):
        done = CliRunner().invoke(main, ["bench", "storage", str(where)])
        assert done.exit_code == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_command_makes_a_file_prints_a_table_and_writes_what_its_schema_says(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_room, "StorageSettings", SMALL)
    path = tmp_path / "storage.json"
    done = CliRunner().invoke(main, ["bench", "storage", "--repeat", "1", "--json", str(path)], catch_exceptions=False)
    if _native.build_type != "release":
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    assert [line for line in done.stdout.splitlines() if len(line) > 100 and "written to" not in line] == []
    assert "streamload: cold, measuring" in done.stderr
    written = json.loads(path.read_text())
    pytest.importorskip("jsonschema").Draft202012Validator(result_schema("storage")).validate(written)
    assert written["where"] == ""


@pytest.fixture(scope="module")
def endpoint(nginx):
    folder = nginx.root / "stored"
    make_checkpoint(folder / "model", SHAPE, shards=2)
    yield {"key": "reader", "secret": "hush-hush", "endpoint_url": nginx.url}
    shutil.rmtree(folder)


def test_a_bucket_is_read_by_its_connections_and_to_its_first_byte(endpoint):
    bench = run_storage_bench(
        SMALL(where="s3://stored/model/model.safetensors.index.json", storage_options=endpoint, repeat=1)
    )
    assert bench.store == "bucket"
    assert 0 < bench.nbytes < SHAPE.nbytes
    assert {each.in_flight for each in ran(bench, "ceiling", "bucket")} == {1, 4, 16}
    ours = ran(bench, "streamload", "bucket")
    assert {each.in_flight for each in ours} == {0, 1, 4, 16}
    assert all(each.score.stats["remote_bytes"] == bench.nbytes for each in ours)
    assert {each.score.role for each in bench.figures if each.target == "first byte" and each.rate} == {
        *("ceiling", "streamload", "peer")
    }
    listed = {each.score.name.partition(",")[0] for each in bench.figures if each.score.role == "peer"}
    assert {"urllib in threads", *_bucket._PEERS} <= listed
    assert "until the first byte" in bench.table()


def test_the_command_measures_a_bucket_and_tells_no_secret(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_room, "StorageSettings", SMALL)
    given = [f"--storage-option={key}={value}" for key, value in endpoint.items()]
    path = tmp_path / "bucket.json"
    command = ["bench", "storage", "s3://stored/model/model.safetensors.index.json", *given, "--repeat", "1"]
    done = CliRunner().invoke(main, [*command, "--json", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = json.loads(path.read_text())
    pytest.importorskip("jsonschema").Draft202012Validator(result_schema("storage")).validate(written)
    assert "hush-hush" not in done.output + path.read_text()
