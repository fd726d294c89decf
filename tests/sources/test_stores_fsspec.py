"""What only fsspec can read: any protocol and chain, with lengths and versions checked by us."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest

import streamload
from streamload._sources import FileSource, open_source, open_store
from streamload._sources._fsspec import FsspecSource, FsspecStore
from streamload.errors import ChangedError, ShortReadError, SourceError
from streamload.testing import SourceTests

fsspec = pytest.importorskip("fsspec")

SECRET = "s3cr3t"


@pytest.fixture
def place():
    """A directory of its own in fsspec's memory."""
    path = f"/{uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fs.mkdirs(path)
    yield fs, path
    fs.rm(path, recursive=True)


class TestFsspecSource(SourceTests):
    @pytest.fixture(autouse=True)
    def _place(self, place):
        self.fs, self.path = place

    def make_source(self, data):
        self.fs.pipe_file(f"{self.path}/x", data)
        return open_source(f"memory:/{self.path}/x")

    def change(self):
        self.fs.pipe_file(f"{self.path}/x", b"x" * 100_003)
        return True


class Strange:
    """A file system that answers as it is told."""

    protocol = "strange"

    def __init__(self, size=10, data=b"0123456789", fail=None) -> None:
        self.size, self.data, self.fail = size, data, fail

    def _parent(self, path):
        return ""

    def invalidate_cache(self, path=None):
        return None

    def info(self, path):
        return {"name": path, "size": self.size, "type": "file"}

    def cat_file(self, path, start=None, end=None):
        if self.fail is not None:
            raise self.fail
        return self.data[start:end]


@pytest.mark.parametrize("data", [b"012", b"0123456789" * 2])
def test_wrong_length_is_never_believed(data):
    fs = Strange(data=data)
    fs.cat_file = lambda path, start=None, end=None: data
    with FsspecSource(fs, "x", url="strange://x") as source, pytest.raises(ShortReadError, match="expected 10 bytes"):
        source.read_into(0, memoryview(bytearray(10)))


def test_change_of_length_is_noticed():
    fs = Strange()
    with FsspecSource(fs, "x", url="strange://x") as source:
        fs.size = 11
        with pytest.raises(ChangedError, match="expected 10 bytes"):
            source.read_into(0, memoryview(bytearray(10)))


def test_length_must_be_known():
    with pytest.raises(SourceError, match="does not say how long"):
        FsspecSource(Strange(size=None), "x", url="strange://x")


def test_error_of_a_library_is_typed_and_shows_no_secret():
    fs = Strange(fail=RuntimeError(f"GET https://u:{SECRET}@host/x?sig={SECRET} failed"))
    with FsspecSource(fs, "x", url="strange://x") as source, pytest.raises(SourceError) as caught:
        source.read_into(3, memoryview(bytearray(4)))
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert (caught.value.offset, caught.value.nbytes) == (3, 4)


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x")])
def test_missing_and_denied_stay_what_they_are(error):
    with (
        FsspecSource(Strange(fail=error), "x", url="strange://x") as source,
        pytest.raises(type(error), match="strange://x"),
    ):
        source.read_into(0, memoryview(bytearray(4)))


def test_names_are_listed(place):
    fs, path = place
    for name in ("a", "deep/b"):
        fs.pipe_file(f"{path}/{name}", b"x")
    store = open_store(f"memory:/{path}")
    assert store.names() == {"a"}
    assert store.names(deep=True) == {"a", "deep/b"}
    assert open_store(f"memory:/{path}/nothing").names() == set()
    with pytest.raises(FileNotFoundError, match="no such object"):
        store.open("nothing")
    with pytest.raises(IsADirectoryError):
        store.open("deep")


@pytest.mark.parametrize("cache", ["simplecache", "filecache"])
def test_cache_of_whole_files_gives_a_local_file(place, tmp_path, cache):
    fs, path = place
    fs.pipe_file(f"{path}/x", b"hello")
    url = f"{cache}::memory:/{path}/x"
    with open_source(url, storage_options={cache: {"cache_storage": str(tmp_path)}}) as source:
        assert isinstance(source, FileSource)
        assert source.url == url
        assert source.path.startswith(str(tmp_path))
        assert source.nbytes == 5


def test_chain_into_an_archive_is_read(place, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("d/x", b"hello")
    fs, path = place
    fs.pipe_file(f"{path}/a.zip", (tmp_path / "a.zip").read_bytes())
    with open_source(f"zip://d/x::memory:/{path}/a.zip") as source:
        buffer = bytearray(5)
        assert source.read_into(0, memoryview(buffer)) == 5
        assert buffer == b"hello"


def test_cache_of_blocks_warns_that_it_is_slow(place, caplog, tmp_path):
    fs, path = place
    fs.pipe_file(f"{path}/x", b"hello")
    with caplog.at_level(logging.WARNING):
        open_store(f"blockcache::memory:/{path}", storage_options={"blockcache": {"cache_storage": str(tmp_path)}})
    assert "slow" in caplog.text


def test_unknown_protocol_says_what_there_is():
    with pytest.raises(ValueError, match=r"'nonsense://x' is not supported: .*s3://"):
        open_store("nonsense://x")


def test_store_shows_itself_redacted():
    store = FsspecStore(Strange(), "x", url=f"strange://u:{SECRET}@host/x?{SECRET}")
    assert SECRET not in repr(store) + store.url


def test_object_at_the_root_opens(write, tmp_path):
    file = write(tmp_path / "at-the-root.safetensors", "a")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/at-the-root.safetensors", file.read_bytes())
    with streamload.open("memory://at-the-root.safetensors") as opened:
        assert list(opened) == ["a"]
    fs.rm("/at-the-root.safetensors")


def test_checkpoint_opens_from_memory(place, sharded):
    fs, path = place
    for file in sharded.iterdir():
        fs.pipe_file(f"{path}/{file.name}", file.read_bytes())
    with streamload.open(f"memory:/{path}") as checkpoint:
        assert list(checkpoint) == ["a", "b", "c", "d"]
        assert checkpoint.shards[0].url == f"memory:/{path}/model-00001-of-00003.safetensors"
