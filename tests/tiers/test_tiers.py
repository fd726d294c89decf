"""What streams from a store is kept, whole or in part, and never believed for longer than it is right."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import pytest

from streamload._sources import FileSource
from streamload._sources._tiers import (
    TieredSource,
    attach,
    known_names,
    list_entries,
    local_file,
    open_known,
    prune,
)
from streamload._sources._tiers._advice import advice_for, file_system_of
from streamload.errors import SourceError, StreamClosedError

NBYTES = 300_000


def files_below(directory):
    return sorted(path for path in Path(directory).rglob("*") if path.is_file() and path.name != "lock")


def test_without_a_tier_the_source_stays_what_it_is(places, stored):
    _, open_object = stored
    assert type(open_object(places.choose())) is places.RangeSource


def test_an_object_without_a_version_is_not_kept(places, server, options):
    source = places.RangeSource(server.put("object", places.content(10)))
    source.etag = ""
    assert attach(source, options) is source


def test_what_was_read_once_is_a_file_the_next_time(places, server, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        assert isinstance(source, TieredSource)
        assert (source.nbytes, source.head) == (NBYTES, data[: places.HEAD_BYTES])
        assert places.read_all(source) == data
    server.reset()
    with open_object(options) as again:
        assert isinstance(again, FileSource)
        assert again.url == source.url
        assert places.read_all(again) == data
    assert server.requests == 1  # the one that opens it, and so asks for its version


def test_every_byte_is_fetched_once(places, server, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        assert places.read_all(source) == data
        assert places.read_all(source) == data
    # The first read begins behind what came when the object was opened.
    assert server.sent_bytes == NBYTES


def test_parts_stay_parts_and_are_read_by_range(places, server, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        places.read_all(source, start=100_000, end=200_000)
    server.reset()
    with open_object(options) as source:
        assert places.read_all(source, start=120_000, end=180_000) == data[120_000:180_000]
        assert server.sent_bytes == places.HEAD_BYTES  # came with the opening
        assert places.read_all(source) == data
        assert server.sent_bytes == places.HEAD_BYTES + NBYTES - 100_000 - places.HEAD_BYTES
    with open_object(options) as source:
        assert isinstance(source, FileSource)


def test_a_read_past_the_end_is_short(stored, options):
    data, open_object = stored
    with open_object(options) as source:
        buffer = bytearray(100)
        assert source.read_into(NBYTES - 10, memoryview(buffer)) == 10
        assert buffer[:10] == data[-10:]
        assert source.read_into(NBYTES + 10, memoryview(buffer)) == 0
        with pytest.raises(ValueError, match="offset"):
            source.read_into(-1, memoryview(buffer))
    with pytest.raises(StreamClosedError):
        source.read_into(0, memoryview(buffer))


def test_a_small_object_is_kept_when_it_was_opened(places, server, open_url, options):
    data = places.content(1000)
    url = server.put("index.json", data)
    with open_url(url, options) as first:
        assert isinstance(first, FileSource)
        assert places.read_all(first) == data


def test_an_object_that_changed_is_another_object(places, server, open_url, options):
    old, new = places.content(NBYTES, 1), places.content(NBYTES, 2)
    for data in (old, new, old):
        url = server.put("object", data)
        with open_url(url, options) as source:
            assert places.read_all(source) == data
    assert sorted(entry.nbytes for entry in list_entries(options.cache_dir)) == [NBYTES, NBYTES]


def test_everything_is_private_to_the_user(places, stored, options):
    _, open_object = stored
    with open_object(options) as source:
        places.read_all(source, end=50_000)
        for path in Path(options.cache_dir).rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_folder_that_others_may_write_to_is_not_used(places, stored, options, caplog):
    data, open_object = stored
    Path(options.cache_dir, "objects").mkdir(parents=True)
    Path(options.cache_dir, "objects").chmod(0o777)
    source = open_object(options)
    assert type(source) is places.RangeSource
    assert places.read_all(source) == data
    assert "nobody else can write" in caplog.text


def test_no_secret_of_a_url_is_written(places, server, open_url, options):
    url = server.put("object", places.content(NBYTES)) + "?X-Signature=hush"
    with open_url(url, options) as source:
        places.read_all(source)
    for path in files_below(options.cache_dir):
        assert b"hush" not in path.read_bytes() + str(path).encode()


def test_entries_tell_what_is_kept(places, server, open_url, stored, options):
    _, open_object = stored
    with open_object(options) as source:
        places.read_all(source)
    part = open_url(server.put("other", places.content(NBYTES)), options)
    places.read_all(part, end=65536)
    whole, partial = sorted(list_entries(options.cache_dir), key=lambda entry: not entry.complete)
    assert (whole.url, whole.complete, whole.in_use) == (server.url("models/object"), True, False)
    assert (partial.url, partial.complete, partial.in_use) == (server.url("other"), False, True)
    assert whole.nbytes == partial.nbytes == NBYTES
    assert 65536 <= partial.stored_bytes < whole.stored_bytes
    assert whole.created <= whole.used + 1


def test_offline_asks_nobody(places, server, open_url, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        places.read_all(source)
    part = server.put("models/part", data)
    with open_url(part, options) as source:
        places.read_all(source, end=100_000)
    server.reset()
    with open_known(server.url("models/object"), options) as known:
        assert isinstance(known, FileSource)
        assert places.read_all(known) == data
    with open_known(part, options) as known:
        assert places.read_all(known, end=100_000) == data[:100_000]
        with pytest.raises(SourceError, match="offline"):
            places.read_all(known)
    with pytest.raises(FileNotFoundError):
        open_known(server.url("models/none"), options)
    assert known_names(server.url("models"), options) == {"object", "part"}
    assert server.requests == 0


def test_offline_serves_what_the_url_was_last(places, server, open_url, options):
    for seed in (1, 2):
        data = places.content(NBYTES, seed)
        url = server.put("object", data)
        with open_url(url, options) as source:
            places.read_all(source)
    with open_known(url, options) as known:
        assert places.read_all(known) == data


def test_prune_removes_parts_but_what_is_open(places, server, open_url, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        places.read_all(source)
    left = open_url(server.put("left", data), options)
    places.read_all(left, end=65536)
    left.close()
    del left
    part = open_url(server.put("open", data), options)
    places.read_all(part, end=65536)
    Path(options.cache_dir, "entries", "x.json.1.new").write_text("torn")
    done = prune(options.cache_dir)
    assert [entry.url for entry in done.entries] == [server.url("left")]
    assert done.freed_bytes >= 65536
    assert {entry.url for entry in list_entries(options.cache_dir)} == {server.url("models/object"), server.url("open")}
    assert not list(Path(options.cache_dir).rglob("*.new"))
    assert places.read_all(part) == data
    part.close()
    del source, part
    assert len(prune(options.cache_dir, max_bytes=0).entries) == 2
    assert files_below(options.cache_dir) == []


def test_a_place_that_cannot_be_written_is_said_once(places, server, stored, caplog):
    data, open_object = stored
    options = places.choose(cache_dir="/proc/nonexistent/cache")
    sources = [open_object(options) for _ in range(3)]
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [logging.WARNING]
    assert places.read_all(sources[0]) == data


def advice_of(caplog):
    (record,) = [record for record in caplog.records if record.levelno > logging.INFO]
    return record.getMessage().rpartition("To use it, ")[2]


def test_a_limit_that_is_too_low_is_named(stored, options, caplog):
    options.cache_bytes = NBYTES - 1
    stored[1](options)
    assert advice_of(caplog) == f"raise cache_bytes, which is {NBYTES - 1}"


def test_a_file_where_a_folder_should_be_is_named(places, stored, tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    stored[1](places.choose(cache_dir=str(tmp_path / "file" / "cache")))
    assert advice_of(caplog).startswith("a part of its path is no directory")


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may write to"),
        (errno.ENOENT, "cannot be made"),
        (errno.ENOSPC, "free some space"),
        (errno.EIO, "another directory"),
    ],
)
def test_advice_is_about_what_went_wrong(number, says):
    assert says in advice_for(OSError(number, "x"))
    assert ("prune" in advice_for(OSError(number, "x"))) == (number == errno.ENOSPC)


def test_memory_on_a_drive_is_said_once(places, server, open_url, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("streamload._sources._tiers._tier.file_system_of", lambda path: "ext4")
    options = places.choose(memory_dir=str(tmp_path / "memory"))
    for number in range(2):
        open_url(server.put(f"o{number}", places.content(NBYTES)), options)
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == [
        f"the cache in {options.memory_dir} is on ext4, and memory_dir means memory: "
        "give a directory on tmpfs (/dev/shm, say)"
    ]


def test_a_file_system_in_memory_is_known():
    assert file_system_of(Path("/proc/self")) == "proc"
    if " /dev/shm " in Path("/proc/self/mountinfo").read_text():
        assert file_system_of(Path("/dev/shm/some/where")) is None


def test_a_cached_file_that_was_cut_off_is_read_from_the_store(places, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        places.read_all(source, end=200_000)
        (partial,) = Path(options.cache_dir, "partial").glob("*[!l]")
        os.truncate(partial, 10)
        assert places.read_all(source, end=200_000) == data[:200_000]
    with open_object(options) as source:
        assert places.read_all(source) == data


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("nbytes", [NBYTES, NBYTES - 1])
def test_a_file_that_was_altered_is_dropped_with_a_warning(stored, places, options, caplog, nbytes, offline):
    data, open_object = stored
    with open_object(options) as source:
        assert places.read_all(source) == data
    (path,) = Path(options.cache_dir, "objects").glob("*/*")
    written = path.stat().st_mtime_ns
    path.write_bytes(bytes(nbytes))
    os.utime(path, ns=(written + 1, written + 1))
    if offline:
        with pytest.raises(FileNotFoundError):
            open_known(source.url, options)
    else:
        for _ in range(2):
            with open_object(options) as source:
                assert places.read_all(source) == data
    assert isinstance(source, TieredSource if offline else FileSource)
    assert ["altered" in r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == [True]


def test_an_object_that_was_evicted_and_came_back_is_believed(stored, places, options, caplog):
    data, open_object = stored
    for _ in range(2):
        with open_object(options) as source:
            assert places.read_all(source) == data
        (path,) = Path(options.cache_dir, "objects").glob("*/*")
        path.unlink()
    with open_object(options) as source:
        assert places.read_all(source) == data
    with open_object(options) as source:
        assert isinstance(source, FileSource)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_memory_comes_before_the_drive_and_both_are_filled(places, server, stored, tmp_path):
    data, open_object = stored
    options = places.choose(cache_dir=str(tmp_path / "drive"), memory_dir=str(tmp_path / "memory"))
    with open_object(options) as source:
        assert places.read_all(source) == data
    assert server.sent_bytes == NBYTES
    for directory in (options.cache_dir, options.memory_dir):
        (entry,) = list_entries(directory)
        assert entry.complete
    with open_object(options) as source:
        assert source.path.startswith(options.memory_dir)
    del source
    prune(options.memory_dir, max_bytes=0)
    with open_object(options) as source:
        assert source.path.startswith(options.cache_dir)


def test_a_local_file_is_fetched_whole(places, server, stored, options):
    data, open_object = stored
    with open_object(options) as source:
        places.read_all(source, start=100_000, end=200_000)
        with local_file(source) as file:
            assert places.read_all(file) == data
    assert server.sent_bytes == NBYTES
    assert local_file(places.RangeSource(server.url("models/object"))) is None
