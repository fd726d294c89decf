"""Repositories in the hub's cache, with no network: what is there is loaded, what is not whole never is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import streamload  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

Llama = transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    tiny.save(directory / "whole")
    tiny.save(directory / "shards", shard="20KB")
    return directory


@pytest.fixture(params=["whole", "shards"])
def cached(request, saved, tmp_path):
    """The name of a repository that was downloaded, and the arguments that find it."""
    name = tiny.cached(tmp_path, saved / request.param)
    given = {"cache_dir": tmp_path, "local_files_only": True, "dtype": "auto"}
    model = streamload.from_pretrained(name, device="cpu", **given)
    assert model.streamload.reason is None
    tiny.assert_equal(model, Llama.from_pretrained(name, **given))
    return name, given


def assert_fails_as_stock(name, given, match):
    kinds = (OSError, AttributeError) if tiny.TRANSFORMERS_4 else OSError  # 4 trips over a single file that is missing
    errors = []
    for load in (
        lambda: Llama.from_pretrained(name, **given),
        lambda: streamload.from_pretrained(
            name, device="cpu", auto_class=Llama, options=StreamOptions(debug=True), **given
        ),
    ):
        with pytest.raises(kinds) as raised:
            load()
        errors.append(raised.value)
    assert type(errors[0]) is type(errors[1])
    assert str(errors[0]) == str(errors[1])
    if isinstance(errors[0], AttributeError):
        return
    assert re.search(match, str(errors[0]))
    assert name in "\n".join([str(errors[1]), *getattr(errors[1], "__notes__", ())])


def last_weights(given):
    """One of the links to downloaded weights."""
    return sorted(Path(given["cache_dir"]).rglob("snapshots/*/*.safetensors"))[-1]


def test_weights_still_being_downloaded_are_not_loaded(cached):
    name, given = cached
    weights = last_weights(given)
    blob = weights.resolve()
    blob.rename(blob.with_name(blob.name + ".incomplete"))
    weights.unlink()  # the link is made when all of it is there
    assert_fails_as_stock(name, given, match=weights.name)


def test_weights_whose_download_was_thrown_away_are_not_loaded(cached):
    name, given = cached
    weights = last_weights(given)
    weights.resolve().unlink()  # and the link is left
    assert_fails_as_stock(name, given, match=weights.name)


@pytest.mark.parametrize("given", [{}, {"local_files_only": True}, {"revision": "v9"}, {"subfolder": "below"}])
@pytest.mark.parametrize("name", ["someone/nothing", "nothing-at-all"])
def test_a_repository_that_is_not_there_is_named(name, given, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    given = {"cache_dir": tmp_path, **given}
    assert_fails_as_stock(name, given, match="couldn't find them in the cached files")
    with pytest.raises(OSError, match="couldn't find") as raised:
        streamload.from_pretrained(name, device="cpu", **given)
    assert raised.value.__notes__ == [f"while loading {name!r}"]


def test_a_revision_that_was_not_downloaded_is_an_error(cached):
    name, given = cached
    assert_fails_as_stock(name, {**given, "revision": "v9"}, match="couldn't find them in the cached files")
