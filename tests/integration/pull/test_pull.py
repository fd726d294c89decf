"""Pulls that nothing disturbs: what arrives, under which names, and what is written down."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import pytest

import streamload
from streamload._pull import verify_models
from streamload.testing import make_checkpoint

from .conftest import SHAPE, contents, names_in, weights_of


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def model_files(directory, name="llama"):
    return contents(directory / name)


def test_an_index_brings_its_shards_bit_for_bit(index, files, tmp_path):
    done = streamload.pull(index, tmp_path)
    assert model_files(tmp_path) == weights_of(files)
    assert done.fetched == done.nbytes == sum(map(len, weights_of(files).values()))
    with streamload.open(str(tmp_path / "llama")) as checkpoint:
        assert set(checkpoint) == set(SHAPE.tensors())


def test_models_json_says_what_is_there(index, files, server, tmp_path):
    streamload.pull(index, tmp_path)
    listed = json.loads((tmp_path / "models.json").read_text())
    assert (listed["format"], listed["version"]) == ("streamload-models", 1)
    entry = listed["models"]["llama"]
    assert (entry["source"], entry["format"]) == (index, "safetensors")
    assert entry["nbytes"] == sum(map(len, weights_of(files).values()))
    assert entry["files"] == {
        name: {
            "nbytes": len(data),
            "format": name.rpartition(".")[2],
            "sha256": sha256(data),
            "etag": server.etag(f"llama/{name}"),
            "mtime_ns": (tmp_path / "llama" / name).stat().st_mtime_ns,
        }
        for name, data in weights_of(files).items()
    }
    assert verify_models(tmp_path).right


def test_nothing_is_left_but_files_and_the_list(index, files, tmp_path):
    streamload.pull(index, tmp_path)
    assert names_in(tmp_path) == {"llama", "models.json"}


def test_every_byte_is_asked_for_once(index, server, tmp_path):
    streamload.pull(index, tmp_path)
    asked = [piece for piece in server.asked if piece[0].endswith(".safetensors")]
    for path in {path for path, _, _ in asked}:
        at = 0
        for _, start, end in sorted(piece for piece in asked if piece[0] == path):
            assert start == at
            at = end
        assert at == len(server.objects[path])


def test_a_second_pull_asks_one_byte_of_each_file_and_writes_nothing(index, server, tmp_path):
    streamload.pull(index, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "llama").rglob("*")}
    listed = (tmp_path / "models.json").stat().st_mtime_ns
    server.asked.clear()
    done = streamload.pull(index, tmp_path)
    assert done.fetched == 0
    assert all(end - start == 1 for path, start, end in server.asked if path.endswith(".safetensors"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "llama").rglob("*")} == before
    assert (tmp_path / "models.json").stat().st_mtime_ns == listed


def test_files_have_the_mode_that_the_umask_leaves(index, tmp_path):
    before = os.umask(0o027)
    try:
        streamload.pull(index, tmp_path)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "llama").iterdir()}
    assert modes == {0o640}


def test_what_is_not_whole_yet_is_private(index, server, tmp_path):
    seen = set()

    def look(path, sent):
        work = tmp_path / ".streamload-pull"
        if work.exists():
            seen.add(stat.S_IMODE(work.stat().st_mode))

    server.before_piece = look
    streamload.pull(index, tmp_path)
    assert seen == {0o700}


@pytest.mark.parametrize("form", ["path", "file URL", "memory"])
def test_a_place_that_can_be_listed_brings_all_its_files(form, files, tmp_path):
    if form == "memory":
        fsspec = pytest.importorskip("fsspec")
        place = fsspec.filesystem("memory")
        for name, data in files.items():
            place.pipe_file(f"/pulled/llama/{name}", data)
        place.pipe_file("/pulled/llama/unet/config.json", b"{}")
        url = "memory://pulled/llama"
    else:
        source = tmp_path / "from" / "llama"
        (source / "unet").mkdir(parents=True)
        for name, data in files.items():
            (source / name).write_bytes(data)
        (source / "unet" / "config.json").write_bytes(b"{}")
        url = str(source) if form == "path" else source.as_uri()
    done = streamload.pull(url, tmp_path / "to")
    assert model_files(tmp_path / "to") == {**files, "unet/config.json": b"{}"}
    assert done.models["llama"].files is not None
    assert streamload.pull(url, tmp_path / "to").fetched == 0


def test_include_and_exclude_choose_files(files, tmp_path):
    source = tmp_path / "llama"
    make_checkpoint(source, SHAPE, shards=3)
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    streamload.pull(str(source), tmp_path / "a", include=["*.json"])
    assert set(model_files(tmp_path / "a")) == {"config.json", "model.safetensors.index.json"}
    streamload.pull(str(source), tmp_path / "b", exclude=["*.bin", "*-00002-*"])
    assert set(model_files(tmp_path / "b")) == set(files) - {"model-00002-of-00003.safetensors"}
    with pytest.raises(FileNotFoundError, match="matches what is included"):
        streamload.pull(str(source), tmp_path / "c", include=["*.onnx"])


def test_files_of_one_place_are_one_model_and_add_up(server, files, tmp_path):
    urls = [f"{server.url}/llama/{name}" for name in ("config.json", "model-00001-of-00003.safetensors")]
    streamload.pull(urls, tmp_path)
    assert set(model_files(tmp_path)) == {"config.json", "model-00001-of-00003.safetensors"}
    streamload.pull(f"{server.url}/llama/model.safetensors.index.json", tmp_path, name="other")
    assert set(json.loads((tmp_path / "models.json").read_text())["models"]) == {"llama", "other"}


def test_many_models_by_name(server, files, tmp_path):
    server.objects |= {f"small/{number}/config.json": b"{}" * (number + 1) for number in range(20)}
    wanted = {f"small-{number}": f"{server.url}/small/{number}/config.json" for number in range(20)}
    done = streamload.pull({**wanted, "llama": f"{server.url}/llama/model.safetensors.index.json"}, tmp_path)
    assert set(done.models) == {*wanted, "llama"}
    assert (tmp_path / "small-7" / "config.json").read_bytes() == b"{}" * 8
    assert verify_models(tmp_path).models == 21


def test_a_list_names_files_that_plain_http_cannot(server, files, tmp_path):
    listed = {name: {"sha256": sha256(data)} for name, data in files.items()}
    streamload.pull({"llama": {"source": f"{server.url}/llama/", "files": listed}}, tmp_path)
    assert model_files(tmp_path) == files


def test_what_was_written_down_can_be_pulled_again(index, files, tmp_path):
    streamload.pull(index, tmp_path / "a")
    entries = json.loads((tmp_path / "a" / "models.json").read_text())["models"]
    streamload.pull(entries, tmp_path / "b")
    assert model_files(tmp_path / "b") == model_files(tmp_path / "a")


def test_an_empty_file_is_a_file(server, tmp_path):
    server.objects["llama/merges.txt"] = b""
    streamload.pull(f"{server.url}/llama/merges.txt", tmp_path)
    assert model_files(tmp_path) == {"merges.txt": b""}


def test_progress_only_grows_and_ends_at_the_whole(index, files, tmp_path):
    seen = []
    streamload.pull(index, tmp_path, report=seen.append)
    present = [progress.present for progress in seen]
    assert present == sorted(present)
    assert (seen[-1].present, seen[-1].files_done) == (seen[-1].nbytes, seen[-1].files) == (seen[-1].fetched, 4)


@pytest.mark.parametrize(
    ("sources", "fields", "says"),
    [
        ([], {}, "at least one URL"),
        ("", {}, "at least one URL"),
        ("https://host/model.safetensors", {}, "--name"),
        ("s3://bucket/llama", {"name": "../up"}, "cannot be called"),
        ("s3://bucket/llama", {"name": ".hidden"}, "cannot be called"),
        ("s3://bucket/llama", {"name": "models.json"}, "cannot be called"),
        (["s3://one/llama", "s3://two/llama"], {}, "several models"),
        ({"llama": "s3://one/llama"}, {"name": "x"}, "inside each model"),
        ({"../up": "s3://one/llama"}, {}, "becomes a directory"),
        ({"llama": {"source": "s3://one/llama", "files": {"../x": {}}}}, {}, "refused"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(sources, fields, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        streamload.pull(sources, tmp_path, **fields)
    assert list(tmp_path.iterdir()) == []
