"""Local files and memory as sources; what a path may be."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import socket
import threading
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from streamload._sources import FileSource, FileStamp, MemorySource, Source, local_path, open_source
from streamload.errors import ChangedError, SourceError, StreamClosedError

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(DATA)
    return file


@contextlib.contextmanager
def another_user():
    """Run as a user without privileges: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("running as root, and not allowed to become another user")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(params=["file", "memory"])
def source(request, path):
    with FileSource(path) if request.param == "file" else MemorySource(DATA) as opened:
        yield opened


def test_read_fills_the_buffer_from_the_offset(source: Source):
    buffer = bytearray(1000)
    assert source.read_into(5, memoryview(buffer)) == 1000
    assert bytes(buffer) == DATA[5:1005]


def test_read_ends_early_only_at_the_end(source: Source):
    buffer = bytearray(100)
    assert source.read_into(len(DATA) - 30, memoryview(buffer)) == 30
    assert bytes(buffer[:30]) == DATA[-30:]
    assert source.read_into(len(DATA), memoryview(buffer)) == 0
    assert source.read_into(len(DATA) + 1000, memoryview(buffer)) == 0


def test_read_of_no_bytes_is_none(source: Source):
    assert source.read_into(0, memoryview(bytearray())) == 0


def test_length_is_known(source: Source):
    assert source.nbytes == len(DATA)


def test_read_after_close_raises(source: Source):
    source.close()
    source.close()
    assert "closed" in repr(source)
    with pytest.raises(StreamClosedError, match="closed"):
        source.read_into(0, memoryview(bytearray(1)))


def test_negative_offset_is_refused(source: Source):
    with pytest.raises(ValueError, match="offset from 0 on"):
        source.read_into(-1, memoryview(bytearray(1)))


def test_wide_buffer_is_filled_by_bytes(source: Source):
    wide = memoryview(bytearray(16)).cast("Q")
    assert source.read_into(0, wide) == 16
    assert wide.tobytes() == DATA[:16]


def test_stamp_is_that_of_the_open_file(path):
    with FileSource(path) as source:
        status = path.stat()
        assert source.stamp == FileStamp(status.st_dev, status.st_ino, len(DATA), status.st_mtime_ns)
        path.unlink()
        path.write_bytes(b"other")
        buffer = bytearray(4)
        assert source.read_into(0, memoryview(buffer)) == 4
        assert bytes(buffer) == DATA[:4]
        assert source.nbytes == len(DATA)


def test_file_is_opened_once_and_closed(path, open_descriptors):
    before = open_descriptors()
    with FileSource(path) as source:
        assert len(open_descriptors() - before) == 1
        assert not os.get_inheritable(source.fileno())
    assert open_descriptors() == before
    with pytest.raises(StreamClosedError):
        source.fileno()


def test_failed_read_names_url_offset_and_length(path):
    with FileSource(path) as source:
        spare = os.open("/", os.O_RDONLY)
        os.dup2(spare, source.fileno())
        os.close(spare)
        with pytest.raises(SourceError, match="reading 7 bytes at offset 9 failed") as caught:
            source.read_into(9, memoryview(bytearray(7)))
    error = caught.value
    assert (error.url, error.offset, error.nbytes, error.errno) == (str(path), 9, 7, errno.EISDIR)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_signal_during_reads_loses_no_byte(path):
    hits = []
    previous = signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with FileSource(path) as source:
            buffer = bytearray(len(DATA))
            while len(hits) < 20:
                assert source.read_into(0, memoryview(buffer)) == len(DATA)
                assert buffer == DATA
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_short_reads_of_the_system_are_continued(path, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:100]], offset))
    with FileSource(path) as source:
        buffer = bytearray(1050)
        assert source.read_into(3, memoryview(buffer)) == 1050
    assert bytes(buffer) == DATA[3:1053]


def test_threads_may_read_at_once(path):
    wrong = []

    def read(source, offset):
        buffer = bytearray(512)
        for _ in range(100):
            source.read_into(offset, memoryview(buffer))
            if bytes(buffer) != DATA[offset : offset + 512]:
                wrong.append(offset)

    with FileSource(path) as source:
        threads = [threading.Thread(target=read, args=(source, 37 * number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such file.*nowhere/model.safetensors"):
        FileSource("nowhere/model.safetensors")


def test_home_directory_sign_is_explained():
    with pytest.raises(FileNotFoundError, match="expanduser"):
        FileSource("~/model.safetensors")


def test_link_to_nothing_says_where_it_points(tmp_path):
    link = tmp_path / "model.safetensors"
    link.symlink_to("../blobs/gone")
    with pytest.raises(FileNotFoundError, match=r"symbolic link to a missing file \(../blobs/gone\)"):
        FileSource(link)


def test_link_to_a_file_is_followed(tmp_path, path):
    link = tmp_path / "model.safetensors"
    link.symlink_to(path)
    with FileSource(link) as source:
        assert source.nbytes == len(DATA)


def test_directory_is_refused(tmp_path, open_descriptors):
    before = open_descriptors()
    with pytest.raises(IsADirectoryError, match="got a directory"):
        FileSource(tmp_path)
    assert open_descriptors() == before


def test_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceError, match="expected a regular file, got a FIFO"):
        FileSource(tmp_path / "fifo")


def test_device_is_refused():
    with pytest.raises(SourceError, match="got a character device"):
        FileSource("/dev/null")


def test_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(SourceError, match="socket: cannot be opened"):
            FileSource("socket")


def test_component_that_is_no_directory_keeps_its_errno(path):
    with pytest.raises(SourceError) as caught:
        FileSource(path / "below")
    assert caught.value.errno == errno.ENOTDIR


def test_denied_file_explains_mode_0600(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({}, file)
    assert file.stat().st_mode & 0o777 == 0o600, "safetensors 0.8 writes private files, which is why the text says so"
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    if os.geteuid() != 0:
        file.chmod(0)
    with (
        another_user(),
        pytest.raises(PermissionError, match=r"safetensors 0\.8 and newer writes files with mode 0600") as caught,
    ):
        FileSource(file)
    assert caught.value.errno == errno.EACCES
    assert caught.value.filename == str(file)


def test_denied_directory_is_explained(tmp_path):
    directory = tmp_path / "private"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"")
    directory.chmod(0)
    with another_user(), pytest.raises(PermissionError, match="a directory on the way"):
        FileSource(directory / "model.safetensors")
    directory.chmod(0o700)


@pytest.mark.parametrize(
    "url",
    ["file://{}", "file://localhost{}", "FILE://{}", "file:{}", "file://LOCALHOST{}"],
)
def test_file_url_is_a_path(path, url):
    with open_source(url.format(path)) as source:
        assert source.nbytes == len(DATA)
        assert source.path == str(path)


def test_file_url_is_percent_decoded(tmp_path):
    name = "a b#ü?%41.safetensors"
    (tmp_path / name).write_bytes(b"x")
    url = (tmp_path / name).as_uri()
    assert local_path(url) == str(tmp_path / name)
    assert local_path(f"file://{tmp_path}/%FF") == f"{tmp_path}/\udcff"
    with open_source(url) as source:
        assert source.url == url


def test_path_objects_and_text_are_the_same(path):
    assert local_path(path) == local_path(str(path)) == str(path)
    with open_source(path) as source:
        assert source.url == str(path)


def test_path_with_percent_signs_is_taken_as_it_is():
    assert local_path("a%20b") == "a%20b"
    assert local_path(Path("s3:/x")) == "s3:/x"


@pytest.mark.parametrize("url", ["nonsense://bucket/model", "x::nonsense://bucket/model"])
def test_other_scheme_says_what_is_supported(url):
    with pytest.raises(ValueError, match=r"is not supported: .*; give a local path, or a URL such as file://, s3://"):
        open_source(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the path is empty"),
        ("a\0b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("file://", "absolute path"),
        ("file:relative", "absolute path"),
        ("file://host/x", "host 'host'"),
        ("file:///x?y", "%3F"),
        ("file:///x#y", "%23"),
    ],
)
def test_path_that_cannot_be_one_is_refused(url, says):
    with pytest.raises(ValueError, match=says):
        open_source(url)


@pytest.mark.parametrize("url", [3, None, b"bytes"])
def test_what_is_no_text_is_refused(url):
    with pytest.raises(TypeError):
        open_source(url)


def test_a_closed_file_can_be_opened_again(path):
    source = FileSource(path, url="the weights")
    source.close()
    with source.reopen() as again:
        assert (again.url, again.stamp) == (source.url, source.stamp)
        again.check_unchanged()
        buffer = bytearray(len(DATA))
        assert again.read_into(0, memoryview(buffer)) == len(DATA)
        assert buffer == DATA


def test_another_file_is_not_opened_again(path):
    with FileSource(path) as source:
        path.with_suffix(".new").write_bytes(DATA)
        path.with_suffix(".new").rename(path)
        with pytest.raises(ChangedError, match="changed under the load"):
            source.reopen()
        source.check_unchanged()  # the one that is open is still what it was
        path.unlink()
        with pytest.raises(FileNotFoundError):
            source.reopen()


def test_a_file_written_to_is_told(path):
    with FileSource(path) as source:
        path.write_bytes(DATA + b"x")
        with pytest.raises(ChangedError, match=f"nbytes={len(DATA)}"):
            source.check_unchanged()


def test_memory_is_borrowed_and_read_only():
    data = bytearray(DATA)
    with MemorySource(data, url="memory:test") as source:
        with pytest.raises(BufferError):
            data.append(0)
        assert "memory:test" in repr(source)
    data.append(0)
