"""A full disk degrades to no cache, with one warning, and never costs a byte of a load."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamload._sources._tiers import TieredSource, attach, list_entries

NBYTES = 1_000_000


@contextmanager
def largest_file(nbytes):
    """Let no file of this process grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_file_that_cannot_grow_is_said_once(places, server, options, caplog):
    objects = [places.content(NBYTES, seed) for seed in range(3)]
    sources = [attach(places.RangeSource(server.put(f"o{i}", data)), options) for i, data in enumerate(objects)]
    assert {type(source) for source in sources} == {TieredSource}
    with largest_file(NBYTES // 2):
        for source, data in zip(sources, objects, strict=True):
            assert places.read_all(source) == data
            source.close()
    assert len(warnings_of(caplog)) == 1
    assert "File too large" in caplog.text
    assert not any(entry.complete for entry in list_entries(options.cache_dir))
    for name, data in enumerate(objects):  # where there is room again, parts are completed
        with attach(places.RangeSource(server.url(f"o{name}")), options) as source:
            assert places.read_all(source) == data
    assert all(entry.complete for entry in list_entries(options.cache_dir))


def test_a_disk_that_fills_up_under_the_load_is_said_once(places, server, small_disk, caplog):
    options = places.choose(cache_dir=str(small_disk / "cache"))
    objects = [places.content(NBYTES, seed) for seed in range(3)]
    sources = [attach(places.RangeSource(server.put(f"o{i}", data)), options) for i, data in enumerate(objects)]
    assert {type(source) for source in sources} == {TieredSource}
    with pytest.raises(OSError, match="No space left"):
        Path(small_disk, "filler").write_bytes(bytes(4 << 20))
    for source, data in zip(sources, objects, strict=True):
        assert places.read_all(source) == data
        source.close()
    later = attach(places.RangeSource(server.put("later", objects[0])), options)
    assert places.read_all(later) == objects[0]
    assert len(warnings_of(caplog)) == 1
    assert "No space left" in caplog.text


def test_what_was_used_least_lately_makes_room_on_a_small_disk(places, server, small_disk, caplog):
    options = places.choose(cache_dir=str(small_disk / "cache"))
    for seed in range(6):
        data = places.content(NBYTES, seed)
        with attach(places.RangeSource(server.put(f"o{seed}", data)), options) as source:
            assert places.read_all(source) == data
    kept = [entry.url for entry in list_entries(options.cache_dir)]
    assert server.url("o5") in kept
    assert 0 < len(kept) < 6
    assert warnings_of(caplog) == []
