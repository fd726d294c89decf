"""What makes room in a tier, what never goes for it, and who waits for whom."""

from __future__ import annotations

import fcntl
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamload import _native
from streamload._sources import FileSource
from streamload._sources._tiers import TieredSource, _lease, attach, list_entries, prune

NBYTES = 300_000


def test_a_limit_evicts_what_was_used_least_lately(places, server, open_url, options):
    options.cache_bytes = 2 * NBYTES + 20_000
    for name in ("a", "b", "a", "c"):
        with open_url(server.put(name, places.content(NBYTES, ord(name))), options) as source:
            places.read_all(source)
        entry = Path(options.cache_dir, "entries")
        for at, path in enumerate(sorted(entry.iterdir(), key=lambda path: path.stat().st_mtime)):
            os.utime(path, (at, at))  # in the order of their use, with no clock that may be too coarse
    assert {entry.url for entry in list_entries(options.cache_dir)} == {server.url("a"), server.url("c")}


def test_eviction_never_removes_what_is_in_use(places, server, open_url, options, caplog):
    options.cache_bytes = NBYTES + 20_000
    data = places.content(NBYTES, 1)
    url = server.put("used", data)
    with open_url(url, options) as source:
        places.read_all(source)
    used = open_url(url, options)
    used.close()  # asleep: it may be opened again
    other = open_url(server.put("other", places.content(NBYTES, 2)), options)
    assert type(other) is places.RangeSource
    assert "has no room" in caplog.text
    assert prune(options.cache_dir, max_bytes=0).entries == ()
    with used.reopen() as again:
        assert places.read_all(again) == data
    del used, again
    other = open_url(server.url("other"), options)
    assert isinstance(other, TieredSource)
    places.read_all(other, end=65536)
    third = open_url(server.put("third", data), options)
    assert type(third) is places.RangeSource  # `other` is not whole yet, but will be


def test_an_object_larger_than_the_limit_is_not_kept(places, stored, options):
    data, open_object = stored
    options.cache_bytes = NBYTES - 1
    source = open_object(options)
    assert type(source) is places.RangeSource
    assert places.read_all(source) == data


def test_what_cannot_fit_evicts_nothing(places, server, open_url, options):
    options.cache_bytes = 2 * NBYTES + 20_000
    for name in ("idle", "used"):
        url = server.put(name, places.content(NBYTES, ord(name[0])))
        with open_url(url, options) as source:
            places.read_all(source)
    del source
    used = open_url(url, options)
    kept = {entry.url for entry in list_entries(options.cache_dir)}
    larger = open_url(server.put("larger", places.content(2 * NBYTES)), options)
    assert type(larger) is places.RangeSource
    assert {entry.url for entry in list_entries(options.cache_dir)} == kept
    options.cache_bytes = None
    vast = open_url(server.url("larger"), places.choose())
    vast.nbytes = 10**16  # no drive holds this
    assert attach(vast, options) is vast
    assert {entry.url for entry in list_entries(options.cache_dir)} == kept
    used.close()


@pytest.mark.parametrize("where", ["lock", "object"])
def test_a_process_that_stopped_with_a_lock_costs_the_tier_and_not_the_load(
    places, server, open_url, stored, options, caplog, monkeypatch, where
):
    monkeypatch.setattr(_lease, "LOCK_SECONDS", 0.05)
    data, open_object = stored
    with open_object(options) as source:
        assert places.read_all(source) == data
    del source
    path = Path(options.cache_dir, "lock")
    if where == "object":
        (path,) = [path for path in Path(options.cache_dir, "objects").rglob("*") if path.is_file()]
    with path.open("r+b") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        name = "models/object" if where == "object" else "another"
        url = server.put(name, data)
        for _ in range(2):
            source = open_url(url, options)
            assert type(source) is places.RangeSource
            assert places.read_all(source) == data
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "lock" in said
    with open_url(server.url("models/object"), options) as source:
        assert isinstance(source, FileSource)


def test_threads_that_publish_at_once_publish_once(tmp_path):
    """The lock in the journal belongs to the open file, which the threads of a process share."""
    for number in range(20):
        cache = _native.CacheFile(os.fsencode(tmp_path / f"part{number}"), 4, bytes(32))
        cache.put(0, b"abcd")
        target = tmp_path / f"whole{number}"
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(cache.publish, os.fsencode(target), False) for _ in range(8)]:
                done.result()
        assert target.read_bytes() == b"abcd"
