"""Stores seen through tiers: names, what an object is found by again, and what opening it asks for."""

from __future__ import annotations

import json
import struct

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import FileSource, open_source, open_store
from streamload._sources._tiers import TieredSource
from streamload._sources._tiers._store import name_of

NBYTES = 400_000


@pytest.fixture
def tiers(tmp_path):
    return StreamOptions(cache_dir=str(tmp_path / "cache"))


def test_an_object_that_is_kept_is_asked_for_one_byte(places, server, tiers):
    data = places.content(NBYTES)
    url = server.put("models/object", data)
    with open_source(url, options=tiers) as source:
        assert isinstance(source, TieredSource)
        assert places.read_all(source) == data
    assert server.sent_bytes == NBYTES
    server.reset()
    with open_source(url, options=tiers) as source:
        assert isinstance(source, FileSource)
    assert (server.requests, server.sent_bytes) == (1, 1)


def test_an_object_that_changed_is_fetched_anew(places, server, tiers):
    for seed in (1, 2):
        data = places.content(NBYTES, seed)
        with open_source(server.put("models/object", data), options=tiers) as source:
            assert places.read_all(source) == data


def test_offline_lists_what_is_known(places, server, tiers, tmp_path):
    for name in ("models/a", "models/deep/b", "other/c"):
        with open_source(server.put(name, places.content(1000)), options=tiers):
            pass
    server.reset()
    offline = open_store(server.url("models"), options=StreamOptions(cache_dir=tiers.cache_dir, offline=True))
    assert offline.names() == {"a"}
    assert offline.names(deep=True) == {"a", "deep/b"}
    with offline.open("deep/b") as source:
        assert places.read_all(source) == places.content(1000)
    with pytest.raises(FileNotFoundError, match="offline"):
        offline.open("none")
    assert server.requests == 0


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://host/x?X-Amz-Signature=a&X-Amz-Date=b", "https://host/x"),
        ("https://host/x?sv=1&sig=2&se=3&sp=r&sr=b", "https://host/x"),
        ("https://user:secret@host/x?Expires=3&Signature=4&Key-Pair-Id=5", "https://host/x"),
        ("https://host/x?file=a&X-Amz-Signature=b", "https://host/x?file=a"),
        ("s3://bucket/x", "s3://bucket/x"),
    ],
)
def test_who_may_ask_makes_no_other_object(url, same):
    assert name_of(url) == name_of(same)
    assert "secret" not in name_of(url)


def test_what_a_query_asks_for_makes_another_object():
    names = {name_of(f"https://host/get{query}") for query in ("", "?file=a", "?file=b", "?file=a&v=2")}
    assert len(names) == 4
    assert all(name.startswith("https://host/get") and "file" not in name for name in names)


def test_what_was_only_opened_can_be_opened_offline(places, server, tiers, tmp_path):
    """An index tells how long headers are, so less comes of a shard than is asked for without one."""
    names = {f"t{number}": f"model-{number}.safetensors" for number in range(2)}
    for name, shard in names.items():
        header = json.dumps({name: {"dtype": "U8", "shape": [NBYTES], "data_offsets": [0, NBYTES]}}).encode()
        server.put(f"ck/{shard}", struct.pack("<Q", len(header)) + header + places.content(NBYTES))
    server.put("ck/model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": names}).encode())
    url = server.url("ck/model.safetensors.index.json")
    with streamload.open(url, options=tiers) as online:
        known = {name: info.nbytes for name, info in online.items()}
    server.reset()
    offline = StreamOptions(cache_dir=tiers.cache_dir, offline=True)
    with streamload.open(url, options=offline) as opened:
        assert {name: info.nbytes for name, info in opened.items()} == known
        with pytest.raises(FileNotFoundError, match="not in the cache"):
            opened.shards[0].source.read_into(300_000, memoryview(bytearray(10)))
    assert server.requests == 0


@pytest.mark.parametrize("name", ["ck", "ck/model.safetensors", "ck/model.safetensors.index.json"])
def test_a_miss_offline_is_one_kind_of_error(server, places, tiers, name):
    offline = StreamOptions(cache_dir=tiers.cache_dir, offline=True)
    with pytest.raises(FileNotFoundError, match=f"there is no such directory: {tiers.cache_dir}") as caught:
        streamload.open(server.url(name), options=offline)
    assert isinstance(caught.value, streamload.SourceError)
    with open_source(server.put("other", places.content(1000)), options=tiers):
        pass
    with pytest.raises(FileNotFoundError, match=f"{name}.*: not in the cache") as caught:
        streamload.open(server.url(name), options=offline)
    assert isinstance(caught.value, streamload.SourceError)
    assert "nothing below" not in str(caught.value)
