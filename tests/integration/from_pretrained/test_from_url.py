"""`streamload.from_pretrained` of a URL: small files fetched, weights streamed, never a model of zeros."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
fsspec = pytest.importorskip("fsspec")

import streamload  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

pytestmark = pytest.mark.slow

Llama = transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Path(tiny.save(tmp_path_factory.mktemp("tiny") / "llama"))


@pytest.fixture(params=["whole", "sharded"])
def folder(request, saved, tmp_path):
    if request.param == "whole":
        return saved
    Llama.from_pretrained(saved).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    return tmp_path / "sharded"


@pytest.fixture(params=["https", "memory"])
def url(request, folder, origin, tmp_path):
    """The URL of a place that holds the files of a model."""
    name = tmp_path.name
    if request.param == "https":
        for file in folder.iterdir():
            origin.put(f"/{name}/{file.name}", file.read_bytes())
        yield f"{origin.url}/{name}"
        return
    fs = fsspec.filesystem("memory")
    for file in folder.iterdir():
        fs.pipe_file(f"/{name}/{file.name}", file.read_bytes())
    yield f"memory://{name}"
    fs.rm(f"/{name}", recursive=True)


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield
    assert not list((tmp_path / "temporary").glob("streamload-*"))


def test_model_is_the_one_that_its_directory_gives(url, folder):
    model = streamload.from_pretrained(url, device="cpu")
    assert model.streamload.reason is None
    tiny.assert_equal(model, Llama.from_pretrained(folder, dtype="auto"))
    assert model.name_or_path == url
    model.streamload.wait()
    model.streamload.sleep()
    model.streamload.wake()
    tiny.assert_equal(model, Llama.from_pretrained(folder, dtype="auto"))


def test_what_cannot_be_streamed_is_refused(url):
    with pytest.raises(OSError, match=r"cannot be streamed from its store.*streamload pull"):
        streamload.from_pretrained(url, device_map={"model": "cpu", "lm_head": "meta"})


def test_no_model_there_is_not_found(origin):
    with pytest.raises(FileNotFoundError):
        streamload.from_pretrained(f"{origin.url}/nothing", device="cpu")


def test_storage_options_of_a_directory_are_refused(saved):
    with pytest.raises(ValueError, match="storage_options are for stores"):
        streamload.from_pretrained(saved, device="cpu", storage_options={"key": "x"})


@pytest.mark.parametrize("by_name", [False, True])
def test_streamed_classes_take_urls(url, folder, by_name):
    auto = streamload.transformers.AutoModelForCausalLM
    given = {"dtype": "auto", "storage_options": {}, "output_loading_info": True}
    if by_name:
        model, _ = auto.from_pretrained(pretrained_model_name_or_path=url, **given)
    else:
        model, _ = auto.from_pretrained(url, **given)
    assert model.streamload.reason is None
    tiny.assert_equal(model, Llama.from_pretrained(folder, dtype="auto"))
    assert model.name_or_path == url


def test_storage_options_of_a_directory_are_refused_by_streamed_classes(saved):
    with pytest.raises(ValueError, match="storage_options are for stores"):
        streamload.transformers.AutoModelForCausalLM.from_pretrained(saved, storage_options={"key": "x"})
