"""The native reading of a plain index gives what the parser gives, and leaves to it whatever it refuses.

Bytes are changed one by one, so that every rule of the parser meets an index that breaks it.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamload import _native
from streamload._format._index import parse_any_index, parse_index
from streamload.errors import FormatError

PLAIN = st.text("abcXYZ019._-/ :", max_size=12)
NAMES = (
    PLAIN | st.text(max_size=6) | st.sampled_from(["weight_map", "metadata", 'a"b', "a\\b", "\x7f", "\0", "ä", ".."])
)
SHARDS = st.sampled_from(["m-1.safetensors", "m-2.safetensors", "sub/m.safetensors", "../m.safetensors"])
NUMBERS = st.integers(0, 10**18 - 1)
LAYOUTS = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
PIECES = st.sampled_from(
    [*'{}[]",:\\ \t\n0123456789-+.eE', "null", '"x":1', "[]", '"weight_map":{}', ',"a":"x"', "00", "-0", "1.5", "1e400"]
)


@st.composite
def indices(draw, names, shards, values):
    """The fields of an index that is right, but for the names of shards."""
    fields = {"weight_map": draw(st.dictionaries(names, shards, max_size=5))}
    if draw(st.booleans()):
        fields["metadata"] = draw(st.dictionaries(names, values, max_size=3))
    return {name: fields[name] for name in draw(st.permutations(list(fields)))}


def parsed(text: bytes, parse):
    """Weight map and metadata with their order and types, or what is wrong."""
    try:
        index = parse(text, url="index")
    except FormatError as error:
        return str(error)
    return repr((index.weight_map, index.metadata))


@given(indices(PLAIN, SHARDS | PLAIN, NUMBERS | PLAIN), LAYOUTS)
def test_a_plain_index_is_read_natively(fields, layout):
    text = json.dumps(fields, **layout).encode()
    assert _native.scan_index(text) == (fields["weight_map"], fields.get("metadata", {}))


@given(st.data(), indices(NAMES, SHARDS | NAMES, NUMBERS | NAMES | st.none() | st.floats(0, 1)), LAYOUTS)
def test_what_is_read_natively_is_what_the_parser_reads(data, fields, layout):
    text = bytearray(json.dumps(fields, **layout).encode(errors="surrogatepass"))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(at + 3, len(text))))
        text[at:until] = data.draw(PIECES.map(str.encode) | st.binary(max_size=2))
    assert parsed(bytes(text), parse_index) == parsed(bytes(text), parse_any_index)


@pytest.mark.parametrize(
    "text",
    [
        b'{"weight_map":{"a":"x","b":"y","a":"x"}}',
        b'{"weight_map":{},"metadata":{"a":1,"a":1}}',
        b'{"weight_map":{},"weight_map":{}}',
    ],
)
def test_a_name_that_comes_twice_is_left_to_the_parser(text):
    assert _native.scan_index(text) is None
    with pytest.raises(FormatError, match="occurs twice"):
        parse_index(text, url="index")


def test_tensors_of_one_shard_share_its_name():
    shards = list(_native.scan_index(b'{"weight_map":{"a":"x y","b":"z","c":"x y"}}')[0].values())
    assert shards[0] is shards[2]
