"""A pull writes below its directory and nowhere else, under names that can be shown."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

import streamload
from streamload._format import is_plain_path
from streamload.errors import FormatError

from .conftest import contents, weights_of
from .server import RangeServer


@pytest.mark.parametrize("where", ["llama", ".streamload-pull", ".streamload-pull/llama", "llama/config.json"])
def test_a_symbolic_link_below_the_directory_is_refused(server, tmp_path, where):
    target, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = target / where
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(OSError, match="symbolic link") as caught:
        streamload.pull(f"{server.url}/llama/config.json", target)
    assert str(link) in str(caught.value)
    assert not list(elsewhere.iterdir())


def test_the_directory_itself_may_be_a_link(index, files, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "elsewhere")
    streamload.pull(index, tmp_path / "models")
    assert contents(tmp_path / "elsewhere" / "llama") == weights_of(files)


@pytest.mark.parametrize("name", ["..", "a\x01.json", "a\x1b[2J.json", "b\x7f.txt", "c\x9b2J.txt"])
def test_a_url_whose_last_part_is_no_name_is_refused(tmp_path, name):
    with RangeServer({f"llama/{quote(name)}": b"{}"}) as server, pytest.raises((FormatError, ValueError)) as caught:
        streamload.pull(f"{server.url}/llama/{name}", tmp_path, name="model")
    assert name == ".." or name not in str(caught.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_an_index_that_names_a_shard_with_control_characters_is_refused(tmp_path):
    index = json.dumps({"metadata": {}, "weight_map": {"a": "m\x1b[2J\n1.safetensors"}}).encode()
    with (
        RangeServer({"m/m.safetensors.index.json": index}) as server,
        pytest.raises(FormatError, match="control character") as caught,
    ):
        streamload.pull(f"{server.url}/m/m.safetensors.index.json", tmp_path)
    assert "\x1b" not in str(caught.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_plain_paths():
    assert all(map(is_plain_path, ["a", "a/b", "a b\u00e9.safetensors", ".y", "a..b", "a#b?c%"]))
    assert not any(map(is_plain_path, ["", "..", ".", "a//b", "a/../b", "/a", "a\\b", "a\0", "a\n", "\x1b[2J", "\x85"]))
