"""The native reading of plain headers gives what the parser gives, and leaves to it whatever it refuses.

Bytes are changed one by one, so that every rule of the parser meets a header that breaks it.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamload import _native
from streamload._format import DTYPE_BITS, TensorInfo
from streamload._format._header import parse_any_header
from streamload.errors import FormatError

DTYPES = tuple(DTYPE_BITS.items())
BASE = 4096  # where the data begins, whatever the text's length
LENGTHS = st.sampled_from([0, 1, 2, 3, 4, 8, 10, 10**9, 2**32, 10**17, 10**18 - 1])
PLAIN = st.text("abcXYZ019._-/ ", max_size=6)
NAMES = PLAIN | st.text(max_size=6) | st.sampled_from(["__metadata__", "dtype", 'a"b', "a\\b", "\x7f", "\0", "ä"])
LAYOUTS = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
PIECES = st.sampled_from(
    [*'{}[]",:\\ \t\n0123456789-+.eE', "null", '"x":1', "[]", '"dtype":"F32"', "00", "18446744073709551616"]
)


@st.composite
def headers(draw, names):
    """The fields of a header that is right, but for lengths that no file has, and the bytes of its data."""
    found, at = {}, 0
    for name in draw(st.lists(names, max_size=5, unique=True)):
        dtype, bits = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(LENGTHS, max_size=3))
        size = bits
        for length in shape:
            size *= length
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size // 8]}
        at += size // 8
    assume(at + BASE < 2**63)  # no file is longer
    found = {name: found[name] for name in draw(st.permutations(list(found)))}
    if draw(st.booleans()):
        found["__metadata__"] = draw(st.dictionaries(names, names, max_size=3))
    return found, at


def scanned(text: bytes, data_nbytes: int):
    """Tensors and metadata, or None."""
    found = _native.scan_header(memoryview(text), BASE, BASE + data_nbytes, 3, DTYPES, TensorInfo)
    if found is not None:
        assert list(found[0]) == [tensor.name for tensor in found[0].values()]
    return found and (tuple(found[0].values()), found[1])


def parsed(text: bytes, data_nbytes: int):
    """The same by the parser."""
    try:
        header = parse_any_header(text, url="file", nbytes=BASE, file_nbytes=BASE + data_nbytes, shard=3)
    except FormatError:
        return None
    return header.tensors, header.metadata


@given(headers(PLAIN.filter(lambda name: name != "__metadata__")), st.sampled_from([{}, {"separators": (",", ":")}]))
def test_plain_headers_are_read_natively(made, layout):
    found, nbytes = made
    text = json.dumps(found, **layout).encode()
    right = parsed(text, nbytes)
    assume(nbytes < 10**18)  # 18 digits at most are read natively
    assert scanned(text, nbytes) == right
    assert right is None or all(type(tensor) is TensorInfo for tensor in right[0])


@given(st.data(), headers(NAMES), LAYOUTS)
def test_what_is_read_natively_is_what_the_parser_reads(data, made, layout):
    found, nbytes = made
    text = bytearray(json.dumps(found, **layout).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(at + 3, len(text))))
        text[at:until] = data.draw(PIECES.map(str.encode) | st.binary(max_size=2))
    result = scanned(bytes(text), nbytes)
    assert result is None or result == parsed(bytes(text), nbytes)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"__metadata__":{},"__metadata__":{}}',
        b'{"__metadata__":{"a":"","a":""}}',
    ],
)
def test_a_name_that_comes_twice_is_left_to_the_parser(text):
    assert scanned(text, 0) is None
    assert parsed(text, 0) is None


def test_tensors_of_one_shape_share_it_whatever_lies_between():
    shapes = [[2, 3], [3, 2], [], [6], [2, 3], [1], [7], [3, 2], [2, 3]]
    fields, at = {}, 0
    for number, shape in enumerate(shapes):
        nbytes = 1
        for length in shape:
            nbytes *= length
        fields[str(number)] = {"dtype": "U8", "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    tensors, _ = scanned(json.dumps(fields).encode(), at)
    assert [tensor.shape for tensor in tensors] == [tuple(shape) for shape in shapes]
    assert tensors[0].shape is tensors[4].shape
