"""`streamload cache ls` and `prune` over a cache directory that holds objects."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

import streamload
from streamload._sources import open_source
from streamload.cli import main

from .pull.server import RangeServer


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def kept(tmp_path):
    """A cache directory that holds one object whole and a part of another."""
    directory = tmp_path / "cache"
    options = streamload.StreamOptions(cache_dir=str(directory))
    objects = {f"m/{name}": hashlib.shake_128(name.encode()).digest(2 << 20) for name in ("whole.bin", "part.bin")}
    with RangeServer(objects) as server:
        for path, data in objects.items():
            source = open_source(f"{server.url}/{path}", options=options)
            nbytes = len(data) if "whole" in path else 1 << 20
            assert source.read_into(0, memoryview(bytearray(nbytes))) == nbytes
            source.close()
    return directory


def test_ls_names_what_is_kept(kept):
    shown = run("cache", "ls", "--cache-dir", kept)
    assert shown.exit_code == 0
    assert "whole.bin" in shown.stdout
    assert "part.bin" in shown.stdout
    described = json.loads(run("cache", "ls", "--cache-dir", kept, "--json").stdout)
    assert {entry["url"].rpartition("/")[2]: entry["complete"] for entry in described["entries"]}["part.bin"] is False
    assert described["stored_bytes"] == sum(entry["stored_bytes"] for entry in described["entries"]) > 0


def test_prune_removes_parts_and_with_a_limit_whole_objects(kept):
    pruned = run("cache", "prune", "--cache-dir", kept)
    assert (pruned.exit_code, "1 object removed" in pruned.stdout) == (0, True)
    described = json.loads(run("cache", "prune", "--cache-dir", kept, "--max-bytes", "1MB", "--json").stdout)
    assert described["kept_bytes"] <= 1_000_000
    assert json.loads(run("cache", "ls", "--cache-dir", kept, "--json").stdout)["entries"] == []


@pytest.mark.parametrize("command", ["ls", "prune"])
def test_a_directory_that_is_not_there_is_exit_code_2(tmp_path, command):
    result = run("cache", command, "--cache-dir", tmp_path / "none")
    assert result.exit_code == 2
    assert "no such directory" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["ls", "prune"])
@pytest.mark.parametrize("names", [set(), {"models", "objects"}])
def test_a_directory_that_is_no_cache_is_exit_code_2_and_left_as_it_is(tmp_path, command, names):
    for name in names:
        (tmp_path / name).mkdir()
    result = run("cache", command, "--cache-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path}: not a cache directory" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_limit_that_is_no_size_is_exit_code_2(tmp_path):
    result = run("cache", "prune", "--cache-dir", tmp_path, "--max-bytes", "lots")
    assert result.exit_code == 2
    assert "24GiB" in result.stderr
