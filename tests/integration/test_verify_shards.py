"""The manifest of one shard of several: what is known of the others stays, and nothing else is written over."""

from __future__ import annotations

import json
import os

import pytest

import streamload._verify as verifying
from streamload._checksums import MANIFEST_NAME
from streamload._verify import make_manifest, verify
from streamload.errors import FormatError


@pytest.fixture
def shards(tmp_path, write):
    """Two shards of one checkpoint."""
    return [write(tmp_path / "x.safetensors", "a", "b"), write(tmp_path / "y.safetensors", "c")]


@pytest.fixture
def no_reading(monkeypatch):
    """Fail when a checkpoint's bytes are summed."""
    monkeypatch.setattr(verifying, "_sum_shards", lambda *arguments: pytest.fail("the checkpoint was read"))


def test_shards_summed_one_by_one_are_a_whole_manifest(tmp_path, shards):
    done = [make_manifest(str(shard)) for shard in shards]
    assert [(each.shards, each.tensors) for each in done] == [(1, 2), (1, 1)]
    one_by_one = json.loads((tmp_path / MANIFEST_NAME).read_text())
    (tmp_path / MANIFEST_NAME).unlink()
    make_manifest(str(tmp_path))
    assert json.loads((tmp_path / MANIFEST_NAME).read_text()) == one_by_one


def test_only_the_shard_that_was_summed_is_replaced(tmp_path, shards, write):
    make_manifest(str(tmp_path))
    write(shards[0], "a", "d")
    assert not verify(str(tmp_path)).right
    make_manifest(str(shards[0]))
    assert verify(str(tmp_path)).right


def test_a_whole_checkpoint_replaces_the_manifest(tmp_path, shards):
    make_manifest(str(tmp_path))
    shards[1].unlink()
    make_manifest(str(tmp_path))
    assert list(json.loads((tmp_path / MANIFEST_NAME).read_text())["shards"]) == ["x.safetensors"]


def test_a_manifest_elsewhere_keeps_its_shards_too(tmp_path, shards):
    elsewhere = str(tmp_path / "sums.json")
    for shard in shards:
        make_manifest(str(shard), manifest=elsewhere)
    assert verify(str(tmp_path), manifest=elsewhere).right


@pytest.mark.usefixtures("no_reading")
@pytest.mark.parametrize("text", ["", "notes of mine", "{}"])
def test_a_file_that_is_no_manifest_is_not_written_over(tmp_path, shards, text):
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(FormatError, match=r"notes\.txt"):
        make_manifest(str(shards[0]), manifest=str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == text


@pytest.mark.usefixtures("no_reading")
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_no_regular_file_is_refused_before_a_byte_is_read(tmp_path, shards, whole):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FormatError, match="is not a regular file"):
        make_manifest(str(tmp_path if whole else shards[0]), manifest=str(tmp_path / "fifo"))


def test_the_manifest_of_another_checkpoint_is_not_written_over(tmp_path, shards, write):
    make_manifest(str(tmp_path))
    before = (tmp_path / MANIFEST_NAME).read_bytes()
    other = write(tmp_path / "other.safetensors", "c")
    with pytest.raises(FormatError, match=r"tensor 'c' is in its shard 'y\.safetensors' too"):
        make_manifest(str(other))
    assert (tmp_path / MANIFEST_NAME).read_bytes() == before


@pytest.mark.parametrize("name", ["nowhere", "nowhere.safetensors", "nowhere/model.safetensors.index.json"])
def test_a_checkpoint_that_is_not_there_is_what_is_missing(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        verify(str(tmp_path / name))
    assert caught.value.filename == str(tmp_path / name)
    assert "streamload manifest" not in str(caught.value)
