"""Web servers: their places cannot be listed, some name no version. What `open` finds is pulled, a page never is."""

from __future__ import annotations

import hashlib
import signal
import threading

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


def test_a_source_without_etags_is_pulled_but_never_resumed(files, tmp_path):
    with RangeServer({f"llama/{name}": data for name, data in files.items()}, with_etags=False) as server:
        index = f"{server.url}/llama/model.safetensors.index.json"
        streamload.pull(index, tmp_path)
        assert contents(tmp_path / "llama") == weights_of(files)
        assert streamload.pull(index, tmp_path).fetched > 0
        known = {name: hashlib.sha256(data).hexdigest() for name, data in weights_of(files).items()}
        again = streamload.pull({"llama": {"source": index, "sha256": known}}, tmp_path)
        assert again.fetched == 0


@pytest.mark.slow
def test_without_etags_nothing_is_promised_and_the_next_pull_says_why_it_starts_over(files, tmp_path, pulling):
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str, sent: int) -> None:
        if sent > 2_500_000:
            reached.set()
            go_on.wait(30)

    objects = {f"llama/{name}": data for name, data in files.items()}
    with RangeServer(objects, with_etags=False, before_piece=hold) as server:
        index = f"{server.url}/llama/model.safetensors.index.json"
        process = pulling("pull", index, "--to", tmp_path, "--quiet")
        assert reached.wait(60)
        process.send_signal(signal.SIGINT)
        go_on.set()
        _, err = process.communicate(timeout=60)
        server.before_piece = lambda path, sent: None
        assert [*(tmp_path / ".streamload-pull" / "llama").glob("*.partial")]
        done = streamload.pull(index, tmp_path)
    assert process.returncode == 130
    assert "the server names no version (ETag), so nothing can be resumed" in err
    assert "goes on from it" not in err
    assert any("names no version (ETag), so nothing can be resumed; starting over" in note for note in done.notes)
    assert not any("another one" in note for note in done.notes)
    assert contents(tmp_path / "llama") == weights_of(files)
