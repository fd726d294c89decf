"""Stores seen through tiers: names, what an object is found by again, and what opening it asks for."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import FileSource, open_source, open_store
from streamload._sources._tiers import TieredSource
from streamload._sources._tiers._names import name_of

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


@pytest.mark.parametrize(
    ("url", "options", "others"),
    [
        ("s3://b/m", {}, [{"endpoint_url": "https://one"}, {"client_kwargs": {"endpoint_url": "https://two"}}]),
        ("s3://b/m", {"endpoint_url": "https://one"}, [{"endpoint_url": "https://two"}, {"profile": "other"}]),
        ("az://c/m", {"account_name": "a"}, [{"account_name": "b"}, {"connection_string": "AccountName=a"}]),
        (
            "az://c/m",
            {"connection_string": "AccountName=a;AccountKey=k"},
            [{"connection_string": "AccountName=a;BlobEndpoint=https://h"}],
        ),
        ("hf://o/m/x", {}, [{"revision": "r"}, {"endpoint": "https://mirror"}]),
        ("simplecache::s3://b/m", {}, [{"s3": {"endpoint_url": "https://one"}}, {"s3": {"endpoint_url": "https://2"}}]),
    ],
)
def test_another_endpoint_or_account_makes_another_object(url, options, others):
    names = [name_of(url, each) for each in (options, *others)]
    assert len(set(names)) == len(names)


def test_credentials_make_no_other_object():
    place = {"endpoint_url": "https://one"}
    secrets = {"key": "hush", "secret": "hush", "client_kwargs": {"aws_session_token": "hush"}}
    assert name_of("s3://b/m", place | secrets) == name_of("s3://b/m", place)
    assert name_of("s3://b/m", {"client_kwargs": place}) == name_of("s3://b/m", place)
    keyed = "AccountName=a;AccountKey={};EndpointSuffix=h"
    names = {name_of("az://c/m", {"connection_string": keyed.format(key)}) for key in "ab"}
    assert len(names) == 1


@pytest.mark.parametrize(
    "url",
    [
        "memory://d/a#{}",
        "s3://bucket/a#{}",
        "s3://bucket/a?versionId={}",
        "https://host/get?token={}",
        "https://host/get?policy={}",
        "https://host/get?expires={}",
        "https://host/get?sv={}",
        "simplecache::memory://d/a#{}",
        "memory://d/a%2{}",
    ],
)
def test_what_is_not_signed_is_part_of_the_name(url):
    assert name_of(url.format(3)) != name_of(url.format(4))


def test_objects_with_a_number_sign_are_told_apart_offline(places, server, tiers):
    pytest.importorskip("s3fs")
    where = {"anon": True, "endpoint_url": server.url("").rstrip("/")}
    contents = {f"a#{number}.bin": places.content(1000, number) for number in (1, 2)}
    for name, data in contents.items():
        server.put("bucket/" + name.replace("#", "%23"), data)  # as it is in the path of a request
        with open_source(f"s3://bucket/{name}", storage_options=where, options=tiers) as source:
            assert isinstance(source, FileSource)
    offline = replace(tiers, offline=True)
    assert open_store("s3://bucket", storage_options=where, options=offline).names() == set(contents)
    for name, data in contents.items():
        with open_source(f"s3://bucket/{name}", storage_options=where, options=offline) as source:
            assert places.read_all(source) == data


def test_another_endpoint_is_not_served_offline(places, server, tiers):
    pytest.importorskip("s3fs")
    data = places.content(NBYTES)
    server.put("bucket/object", data)
    here = {"anon": True, "endpoint_url": server.url("").rstrip("/")}
    with open_source("s3://bucket/object", storage_options=here, options=tiers) as source:
        assert places.read_all(source) == data
    offline = replace(tiers, offline=True)
    with open_source("s3://bucket/object", storage_options=here, options=offline) as source:
        assert places.read_all(source) == data
    assert open_store("s3://bucket", storage_options=here, options=offline).names() == {"object"}
    there = here | {"endpoint_url": "http://127.0.0.1:9"}
    assert open_store("s3://bucket", storage_options=there, options=offline).names() == set()
    with pytest.raises(FileNotFoundError, match="offline"):
        open_source("s3://bucket/object", storage_options=there, options=offline)
