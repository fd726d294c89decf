"""Places of a web server cannot be listed: what `streamload.open` would find there is pulled, a page never is."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import streamload
from streamload.cli import main

from .conftest import contents, weights_of
from .server import RangeServer

PAGE = b"<!DOCTYPE html><html><title>Index of /llama</title></html>"
SHARD = "model-00001-of-00003.safetensors"


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("path", ["llama", "llama/"])
@pytest.mark.parametrize("listing", [False, True])
def test_a_place_brings_the_checkpoint_that_open_finds_there(server, files, tmp_path, path, listing):
    if listing:
        server.objects[path] = PAGE
        server.pages.add(path)
    streamload.pull(f"{server.url}/{path}", tmp_path)
    assert contents(tmp_path / "llama") == weights_of(files)


def test_a_place_with_a_dot_in_its_name_and_one_file(files, tmp_path):
    objects = {"llama-3.1/model.safetensors": files[SHARD], "llama-3.1": PAGE}
    with RangeServer(objects, pages={"llama-3.1"}) as server:
        streamload.pull(f"{server.url}/llama-3.1", tmp_path / "listing")
        del server.objects["llama-3.1"]
        streamload.pull(f"{server.url}/llama-3.1", tmp_path / "none")
    for directory in ("listing", "none"):
        assert contents(tmp_path / directory / "llama-3.1") == {"model.safetensors": files[SHARD]}


@pytest.mark.parametrize("path", ["gguf", "gguf/", "gguf-3.1", "gguf-3.1/", "none", "none/"])
def test_a_page_is_no_model_and_what_to_give_instead_is_said_as_open_says_it(tmp_path, path):
    pages = {"gguf", "gguf/", "gguf-3.1", "gguf-3.1/"}
    with RangeServer(dict.fromkeys(pages, PAGE), pages=pages) as server:
        result = run("pull", f"{server.url}/{path}", "--to", tmp_path)
        with pytest.raises(FileNotFoundError) as opened:
            streamload.open(f"{server.url}/{path}")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "cannot be listed" in result.stderr
    assert str(opened.value.strerror) in result.stderr
    assert "give the URL of a file or an index" in result.stderr
    assert contents(tmp_path) == {}


def test_a_file_without_a_suffix_is_still_a_file(server, tmp_path):
    server.objects["llama/LICENSE"] = b"as you like it"
    streamload.pull(f"{server.url}/llama/LICENSE", tmp_path)
    assert contents(tmp_path / "LICENSE") == {"LICENSE": b"as you like it"}


def test_the_help_says_that_the_config_is_not_brought():
    assert "config.json, tokenizers and the like only where" in " ".join(run("pull", "--help").stdout.split())
