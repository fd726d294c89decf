"""The rules of the index of a sharded checkpoint."""

from __future__ import annotations

import json

import pytest

from streamload._format import Index, parse_index
from streamload.errors import FormatError

URL = "dir/model.safetensors.index.json"


def parse(index: object) -> Index:
    return parse_index(index if isinstance(index, bytes) else json.dumps(index).encode(), url=URL)


def test_index_maps_names_to_shards():
    index = parse({"metadata": {"total_size": 8.0}, "weight_map": {"a": "x.safetensors", "b": "sub/y.safetensors"}})
    assert index == Index({"a": "x.safetensors", "b": "sub/y.safetensors"}, {"total_size": 8.0})


@pytest.mark.parametrize(
    "index", [{"weight_map": {}}, {"weight_map": {}, "metadata": None}, {"weight_map": {}, "x": [1]}]
)
def test_metadata_and_other_fields_are_free(index):
    assert parse(index) == Index({}, {})


@pytest.mark.parametrize(
    "shard",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../x",
        "a/..",
        ".",
        "./x",
        "a//x",
        "a/",
        "..\\x",
        "C:\\x",
        "x\0",
        "file:///etc/passwd",
        "..",
    ],
)
def test_shard_outside_the_directory_is_refused(shard):
    with pytest.raises(FormatError, match="refused: expected a plain relative path"):
        parse({"weight_map": {"a": "x.safetensors", "b": shard}})


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b"{}", "expected an object 'weight_map', got None"),
        ({"weight_map": []}, "expected an object 'weight_map'"),
        ({"weight_map": {"a": 1}}, "expected tensor names"),
        ({"weight_map": {"a": ["x"]}}, "expected tensor names"),
        ({"weight_map": {"a\0": "x"}}, "expected tensor names"),
        (b'{"weight_map":{"a":"x","a":"y"}}', "the key 'a' occurs twice"),
        (b'{"weight_map":{},"weight_map":{}}', "the key 'weight_map' occurs twice"),
        (b'{"weight_map":{"\\ud800":"x"}}', "surrogates"),
        (b'{"weight_map":{"a":"\\udc00"}}', "surrogates"),
        (b'{"weight_map":{},"metadata":[]}', "expected 'metadata' to be an object"),
        (b'{"weight_map":{},"x":NaN}', "NaN"),
        (b'{"weight_map":{},"x":' + b"[" * 100_000, "nested"),
    ],
)
def test_invalid_index_is_refused_with_its_reason(index, says):
    with pytest.raises(FormatError) as caught:
        parse(index)
    assert str(caught.value).startswith(URL)
    assert says in str(caught.value)
