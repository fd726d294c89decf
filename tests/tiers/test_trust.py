"""A tier believes only what nobody but its user can have put there."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from pathlib import Path

import pytest

from streamload._sources import FileSource
from streamload._sources._tiers import attach, open_known
from streamload._sources._tiers._layout import Facts, Layout

NBYTES = 100_000
FOREIGN = 1234


def give_away(path):
    """Make another user able to change a file or directory: his, as far as this user may give it to him."""
    path = Path(path)
    if os.geteuid() == 0:
        os.chown(path, FOREIGN, FOREIGN)
    else:
        path.chmod(path.stat().st_mode | 0o022)


@pytest.fixture
def planted(places, server, options):
    """An object in the store, and other bytes that somebody put into the tier for it."""
    data, forged = places.content(NBYTES, 1), places.content(NBYTES, 2)
    url = server.put("object", data)
    with closing(attach(places.RangeSource(url), options)) as source:
        places.read_all(source)
        facts = Facts(source.url, source.nbytes, source.etag, 0.0)
    path = Layout(options.cache_dir).object_path(facts.key)
    path.write_bytes(forged)
    return url, data, path


@pytest.mark.parametrize("what", ["root", "objects", "entries", "urls", "folder", "file"])
def test_what_another_user_may_have_put_there_is_not_believed(places, planted, options, caplog, what):
    url, data, path = planted
    root = Path(options.cache_dir)
    at = {"root": root, "folder": path.parent, "file": path}.get(what, root / what)
    give_away(at)
    for _ in range(2):
        with closing(attach(places.RangeSource(url), options)) as source:
            assert not isinstance(source, FileSource)
            assert places.read_all(source) == data
    with pytest.raises(FileNotFoundError):
        open_known(url, options)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert str(at) in said[0]
    assert f"{at.stat().st_mode & 0o7777:04o}" in said[0]


@pytest.mark.parametrize("what", ["root", "folder", "file"])
def test_what_others_may_write_to_is_not_believed(places, planted, options, what):
    url, data, path = planted
    {"root": Path(options.cache_dir), "folder": path.parent, "file": path}[what].chmod(0o720)
    with closing(attach(places.RangeSource(url), options)) as source:
        assert not isinstance(source, FileSource)
        assert places.read_all(source) == data


def test_parts_of_another_user_are_not_gone_on_with(places, server, options):
    data = places.content(NBYTES, 1)
    url = server.put("object", data)
    with closing(attach(places.RangeSource(url), options)) as source:
        places.read_all(source, end=50_000)
    del source
    (journal,) = Path(options.cache_dir, "partial").glob("*.journal")
    give_away(journal)
    assert type(attach(places.RangeSource(url), options)) is places.RangeSource


def test_a_place_where_each_keeps_his_own_may_hold_a_tier(places, server, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)  # as /dev/shm
    options = places.choose(memory_dir=str(shared))
    data = places.content(NBYTES)
    url = server.put("object", data)
    for kind in ("TieredSource", "CachedFile"):
        with closing(attach(places.RangeSource(url), options)) as source:
            assert type(source).__name__ == kind
            assert places.read_all(source) == data
