"""Where the manifest of a checkpoint stands, how it is read, and that it is written in one step."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
from pathlib import Path

import pytest

import streamload
from streamload._checksums import MANIFEST_NAME, known_sums, manifest_path, read_manifest, write_manifest
from streamload._format import Manifest, ShardSums, TensorSum
from streamload.errors import ChecksumError, FormatError, SourceError

OLD = Manifest({"a.safetensors": ShardSums(1, 2, {})})
NEW = Manifest({"b.safetensors": ShardSums(3, 4, {"t": TensorSum("U8", (4,), 5)})})


def sums_of(*tensors: str) -> Manifest:
    """A manifest of one shard whose tensors are as the `write` fixture makes them."""
    return Manifest({"x": ShardSums(0, 0, {name: TensorSum("U8", (4,), at) for at, name in enumerate(tensors)})})


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.fixture
def path(tmp_path):
    """A manifest's path."""
    return str(tmp_path / MANIFEST_NAME)


def test_a_manifest_stands_beside_the_shards(tmp_path):
    (tmp_path / "model").mkdir()
    beside = str(tmp_path / "model" / MANIFEST_NAME)
    for given in ("", "/", "/model.safetensors", "/model.safetensors.index.json"):
        assert os.path.normpath(manifest_path(f"{tmp_path}/model{given}")) == beside
    assert manifest_path(f"file://{tmp_path}/model") == beside
    assert manifest_path("model.safetensors") == MANIFEST_NAME


def test_what_is_written_is_read(path, tmp_path):
    write_manifest(path, OLD)
    write_manifest(path, NEW)
    assert read_manifest(path, url="model") == NEW
    assert names_in(tmp_path) == [MANIFEST_NAME]


def test_a_manifest_in_the_working_directory_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_manifest(MANIFEST_NAME, NEW)
    assert read_manifest(str(tmp_path / MANIFEST_NAME), url="model") == NEW


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read_it(path, umask):
    before = os.umask(umask)
    try:
        write_manifest(path, NEW)
    finally:
        os.umask(before)
    assert Path(path).stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_planted_symbolic_link_is_replaced_and_not_followed(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    Path(path).symlink_to(victim)
    write_manifest(path, NEW)
    assert victim.read_text() == "untouched"
    assert not Path(path).is_symlink()
    assert read_manifest(path, url="model") == NEW


def test_a_link_planted_at_the_temporary_name_is_not_followed(path, tmp_path, monkeypatch):
    monkeypatch.setattr("streamload._whole_file.secrets.token_hex", lambda nbytes: "known")
    victim = tmp_path / "victim"
    (tmp_path / f".{MANIFEST_NAME}.known").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_manifest(path, NEW)
    assert not victim.exists()
    assert (tmp_path / f".{MANIFEST_NAME}.known").is_symlink()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("make", [os.mkfifo, make_socket, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_regular_file_is_not_replaced(path, tmp_path, monkeypatch, make, linked):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    made = Path("other") if linked else Path(MANIFEST_NAME)
    make(made)
    if linked:
        Path(path).symlink_to(made)
    before = made.lstat()
    with pytest.raises(FormatError, match="is not a regular file") as caught:
        write_manifest(path, NEW)
    assert str(caught.value).startswith(path)
    assert made.lstat() == before
    assert names_in(tmp_path) == sorted({MANIFEST_NAME, made.name})


def test_a_link_to_nothing_is_replaced(path, tmp_path):
    Path(path).symlink_to(tmp_path / "missing")
    write_manifest(path, NEW)
    assert names_in(tmp_path) == [MANIFEST_NAME]
    assert read_manifest(path, url="model") == NEW


def test_ctrl_c_right_after_the_temporary_file_was_made_leaves_nothing(path, tmp_path, monkeypatch):
    real = os.open

    def interrupted(*arguments: object, **fields: object) -> int:
        descriptor = real(*arguments, **fields)
        if f".{MANIFEST_NAME}." in str(arguments[0]):
            os.close(descriptor)
            signal.raise_signal(signal.SIGINT)
        return descriptor

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, NEW)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("step", ["open", "fdopen", "fsync", "replace"])
def test_a_failed_write_names_the_manifest(path, monkeypatch, step):
    def fail(*arguments: object, **fields: object) -> None:
        if step == "fdopen":
            os.close(arguments[0])
        raise OSError(errno.EACCES, "denied", "something else")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(PermissionError, match="denied") as caught:
        write_manifest(path, NEW)
    assert (caught.value.filename, caught.value.filename2) == (path, None)


def test_a_missing_directory_names_the_manifest(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_manifest(str(tmp_path / "missing" / "sums.json"), NEW)
    assert caught.value.filename == str(tmp_path / "missing" / "sums.json")


def test_a_manifest_that_may_not_be_read_says_nothing_of_weights(path, monkeypatch):
    write_manifest(path, NEW)
    real = os.open

    def refuse(given: str, *arguments: int) -> int:
        if given == path:
            raise PermissionError(errno.EACCES, "denied", given)
        return real(given, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="the manifest cannot be read") as caught:
        read_manifest(path, url="model")
    assert "safetensors" not in caught.value.strerror
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, path)


@pytest.mark.parametrize("step", ["open", "fdopen", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_the_old_manifest_alone(
    path, tmp_path, monkeypatch, open_descriptors, step, error
):
    write_manifest(path, OLD)
    before = open_descriptors()
    with monkeypatch.context() as patch:

        def fail(*arguments: object, **fields: object) -> None:
            if step == "fdopen":
                os.close(arguments[0])  # as a failing fdopen leaves it to nobody else
            raise error

        patch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            write_manifest(path, NEW)
    assert read_manifest(path, url="model") == OLD
    assert names_in(tmp_path) == [MANIFEST_NAME]
    assert open_descriptors() == before


def test_a_disk_full_after_some_bytes_leaves_the_old_manifest_alone(path, tmp_path, monkeypatch):
    write_manifest(path, OLD)
    real = os.fdopen

    def almost_full(descriptor: int, mode: str) -> object:
        file = real(descriptor, mode, buffering=0)
        os.write(descriptor, b"{")
        file.close()
        return real(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", almost_full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(path, NEW)
    assert read_manifest(path, url="model") == OLD
    assert names_in(tmp_path) == [MANIFEST_NAME]


def test_a_directory_that_cannot_be_synced_is_no_failure(path, monkeypatch):
    real = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "not here")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    write_manifest(path, NEW)
    assert read_manifest(path, url="model") == NEW


def test_a_directory_that_may_not_be_listed_is_no_failure(path, monkeypatch):
    real = os.open

    def refuse_directories(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "denied", path)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse_directories)
    write_manifest(path, NEW)
    assert read_manifest(path, url="model") == NEW


def test_a_manifest_that_could_not_be_read_back_is_not_written(path, tmp_path):
    with pytest.raises(FormatError, match="refused"):
        write_manifest(path, Manifest({"a\\b.safetensors": ShardSums(1, 2, {})}))
    assert names_in(tmp_path) == []


def test_a_missing_manifest_says_how_to_make_one(path):
    with pytest.raises(FileNotFoundError, match="streamload manifest models/llama") as caught:
        read_manifest(path, url="models/llama")
    assert caught.value.filename == path


def test_a_manifest_that_is_no_file_or_too_large_is_refused(path, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceError, match="a FIFO"):
        read_manifest(str(tmp_path / "fifo"), url="model")
    with Path(path).open("wb") as file:
        file.truncate(100_000_001)
    with pytest.raises(FormatError, match="at most 100000000 are allowed"):
        read_manifest(path, url="model")


def test_known_sums_are_those_of_the_checkpoints_own_tensors(tmp_path, path, write):
    write(tmp_path / "model.safetensors", "a", "b")
    write_manifest(path, sums_of("z", "b", "a"))
    with streamload.open(tmp_path / "model.safetensors") as checkpoint:
        assert known_sums(checkpoint) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (TensorSum("U8", (2, 2), 0), "U8 of shape [2, 2] in it"),
        (TensorSum("I8", (4,), 0), "I8 of shape [4] in it"),
        (None, "not in it"),
    ],
)
def test_a_manifest_of_another_checkpoint_is_told(tmp_path, path, write, known, says):
    write(tmp_path / "model.safetensors", "a")
    write_manifest(path, Manifest({"x": ShardSums(0, 0, {} if known is None else {"a": known})}))
    with streamload.open(tmp_path) as checkpoint, pytest.raises(FormatError) as caught:
        known_sums(checkpoint)
    assert "belongs to another checkpoint" in str(caught.value)
    assert says in str(caught.value)


def test_asking_for_sums_without_a_manifest_says_how_to_make_one(tmp_path, write):
    write(tmp_path / "model.safetensors", "a")
    with streamload.open(tmp_path) as checkpoint, pytest.raises(FileNotFoundError, match="streamload manifest"):
        known_sums(checkpoint)


def test_a_checksum_error_is_a_source_error_and_survives_pickling():
    error = ChecksumError("wrong", url="x", expected=1, actual=2, offset=3, nbytes=4)
    again = pickle.loads(pickle.dumps(error))
    for each in (error, again):
        assert isinstance(each, (SourceError, OSError))
        assert not isinstance(each, ValueError)
        assert (str(each), each.url, each.expected, each.actual) == ("wrong", "x", 1, 2)
        assert (each.offset, each.nbytes, each.errno) == (3, 4, None)
    assert type(again) is ChecksumError
