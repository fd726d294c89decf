"""Files that something else wrote to after they were pulled: a pull finds them, says so and heals them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest

import streamload
from streamload._pull import _run, verify_models
from streamload._pull._partial import WorkFiles

from .conftest import contents, weights_of

SHARD = "model-00002-of-00003.safetensors"


def damage(path) -> None:
    """Overwrite one byte, as a failing disk or another program does: the length stays."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def read_again(monkeypatch):
    """The names of the files that a pull reads again to believe them."""
    names = []

    def counted(path, stop, real=_run.sha256_of):
        names.append(os.path.basename(path))  # noqa: PTH119 - a str
        return real(path, stop)

    monkeypatch.setattr(_run, "sha256_of", counted)
    return names


@pytest.mark.parametrize("expected", [False, True])
def test_a_byte_that_was_overwritten_is_found_said_and_fetched_again(index, files, tmp_path, expected):
    known = {name: hashlib.sha256(data).hexdigest() for name, data in weights_of(files).items()}
    wanted = {"llama": {"source": index, **({"sha256": known} if expected else {})}}
    streamload.pull(wanted, tmp_path)
    damage(tmp_path / "llama" / SHARD)
    done = streamload.pull(wanted, tmp_path)
    assert done.fetched == len(files[SHARD])
    assert [note for note in done.notes if SHARD in note and "fetching it again" in note]
    assert contents(tmp_path / "llama") == weights_of(files)
    assert verify_models(tmp_path).right


def test_what_nobody_wrote_to_is_believed_unread(index, tmp_path, read_again):
    streamload.pull(index, tmp_path)
    assert streamload.pull(index, tmp_path).fetched == 0
    assert read_again == []


def test_a_copy_of_other_times_is_read_once_and_then_believed(index, files, tmp_path, read_again):
    streamload.pull(index, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    done = streamload.pull(index, tmp_path / "b")
    assert (done.fetched, done.notes) == (0, ())
    assert sorted(read_again) == sorted(weights_of(files))
    read_again.clear()
    streamload.pull(index, tmp_path / "b")
    assert read_again == []


def test_a_list_without_times_is_taken_and_completed(index, files, tmp_path, read_again):
    streamload.pull(index, tmp_path)
    path = tmp_path / "models.json"
    whole = path.read_text()
    listed = json.loads(whole)
    for entry in listed["models"]["llama"]["files"].values():
        del entry["mtime_ns"]
    path.write_text(json.dumps(listed))
    assert streamload.pull(index, tmp_path).fetched == 0
    assert sorted(read_again) == sorted(weights_of(files))
    assert path.read_text() == whole


def test_damage_between_a_file_and_the_list_is_found_too(index, files, tmp_path, monkeypatch):
    """The pull ended after the file was published and before that was written down."""
    publish = WorkFiles.publish

    def killed(self, record):
        publish(self, record)
        raise RuntimeError("killed here")

    monkeypatch.setattr(WorkFiles, "publish", killed)
    with pytest.raises(RuntimeError):
        streamload.pull(index, tmp_path)
    monkeypatch.setattr(WorkFiles, "publish", publish)
    published = [path for path in (tmp_path / "llama").iterdir() if path.is_file()]
    assert published
    damage(published[0])
    done = streamload.pull(index, tmp_path)
    assert [note for note in done.notes if published[0].name in note]
    assert contents(tmp_path / "llama") == weights_of(files)
