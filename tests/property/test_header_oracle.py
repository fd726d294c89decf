"""Whatever safetensors accepts we accept, and whatever we accept it accepts, with the same result.

The only exceptions are the five rules that `streamload._format._header` adds to those of safetensors; `stricter`
spells them out once more, on its own, so that a sixth cannot creep in.
"""

from __future__ import annotations

import json
import struct
import warnings

import numpy
import safetensors
import safetensors.numpy
from hypothesis import assume, given
from hypothesis import strategies as st

from streamload._format import DTYPE_BITS, parse_header
from streamload.errors import FormatError

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SHAPES = st.lists(st.integers(0, 5), max_size=4)
EDGES = st.sampled_from(
    [0, 1, 2, 3, 4, 8, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**80, 10**310, -(10**310)]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | EDGES | st.floats() | NAMES | st.sampled_from(["F32", "U8", "dtype", "shape"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
JSON_BYTES = st.sampled_from([b"%c" % code for code in b'{}[]",:\\-+.0123456789eEdDu \t\0\x7f\xff'])
LAYOUTS = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


@st.composite
def entries(draw):
    """The tensors of a valid header and how many bytes they take; the JSON order is not the file order."""
    names = draw(st.lists(NAMES.filter(lambda name: name != "__metadata__"), max_size=5, unique=True))
    found, at = {}, 0
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(SHAPES)
        bits = DTYPE_BITS[dtype]
        for length in shape:
            bits *= length
        if bits % 8:
            shape = [*shape, 8]
            bits *= 8
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + bits // 8]}
        at += bits // 8
    found = dict(draw(st.permutations(list(found.items()))))
    metadata = draw(st.none() | st.dictionaries(NAMES, NAMES, max_size=3))
    if metadata is not None:
        found["__metadata__"] = metadata
    return found, at


def file_of(header: bytes, data_nbytes: int) -> bytes:
    data = bytes(index % 251 for index in range(data_nbytes))
    return struct.pack("<Q", len(header)) + header + data


def ours(file: bytes):
    """Name, dtype, shape and bytes of every tensor, or None where we refuse."""
    try:
        header = parse_header(file, url="file", file_nbytes=len(file))
    except FormatError:
        return None
    ends = [header.nbytes, *[tensor.end for tensor in header.tensors]]
    assert [tensor.start for tensor in header.tensors] == ends[:-1], "tensors lie one behind the other"
    assert ends[-1] == len(file)
    return {
        tensor.name: (tensor.dtype, list(tensor.shape), file[tensor.start : tensor.end]) for tensor in header.tensors
    }


def theirs(file: bytes):
    """The same from safetensors."""
    try:
        found = safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return None
    return {name: (info["dtype"], info["shape"], bytes(info["data"])) for name, info in found}


def stricter(file: bytes) -> bool:
    """Whether one of the five rules that safetensors does not have refuses the file."""
    twice = []

    def note(pairs):
        twice.append(len({key for key, _ in pairs}) < len(pairs))
        return dict(pairs)

    (length,) = struct.unpack("<Q", file[:8])
    text = file[8 : 8 + length].decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = json.loads(text, object_pairs_hook=note)
    infos = [info for name, info in header.items() if name != "__metadata__"]
    return (
        not text.startswith("{")
        or any(twice)
        or any("\0" in name for name in header)
        or any(isinstance(info, list) for info in infos)
        or any(isinstance(info["dtype"], dict) for info in infos)
    )


def compare(file: bytes) -> None:
    mine, reference = ours(file), theirs(file)
    if mine is None and reference is not None:
        assert stricter(file)
    else:
        assert mine == reference


@given(entries(), LAYOUTS, st.text(" \n\r\t", max_size=9))
def test_valid_header_means_the_same_to_both(made, layout, padding):
    found, nbytes = made
    file = file_of((json.dumps(found, **layout) + padding).encode(), nbytes)
    assert ours(file) is not None
    compare(file)
    header = parse_header(file, url="file", file_nbytes=len(file))
    assert header.metadata == found.get("__metadata__", {})


@given(
    st.dictionaries(
        NAMES.filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["u1", "i2", "f2", "u4", "f8", "c8", "?"]), SHAPES),
        max_size=5,
    ),
    st.none() | st.dictionaries(NAMES, NAMES, max_size=3),
)
def test_what_safetensors_writes_we_read(arrays, metadata):
    assume(arrays or metadata != {})  # of these safetensors 0.8.0 makes a file that it refuses itself
    file = safetensors.numpy.save({name: numpy.ones(shape, dtype) for name, (dtype, shape) in arrays.items()}, metadata)
    assert ours(file) is not None
    compare(file)


@given(st.data(), entries(), LAYOUTS)
def test_damaged_header_is_refused_by_both_or_by_neither(data, made, layout):
    found, nbytes = made
    names = list(found)
    if names:
        name = data.draw(st.sampled_from(names))
        if name == "__metadata__" or data.draw(st.booleans()):
            found[name] = data.draw(ANY_JSON)
        else:
            field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
            old = found[name].get(field)
            if isinstance(old, list) and old and data.draw(st.booleans()):
                old[data.draw(st.integers(0, len(old) - 1))] = data.draw(ANY_JSON | EDGES)
            else:
                found[name][field] = data.draw(ANY_JSON)
    text = json.dumps(found, **layout)
    compare(file_of(text.encode(), nbytes + data.draw(st.sampled_from([0, 0, 0, 1, -1 if nbytes else 0]))))


@given(st.data(), entries())
def test_header_with_changed_bytes_is_refused_by_both_or_by_neither(data, made):
    found, nbytes = made
    text = bytearray(json.dumps(found, ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = data.draw(st.integers(at, min(at + 2, len(text))))
        text[at:until] = data.draw(JSON_BYTES | st.binary(max_size=2))
    compare(file_of(bytes(text), nbytes))


@given(st.binary(max_size=64), st.integers(0, 80))
def test_bytes_without_form_are_refused_by_both_or_by_neither(tail, length):
    compare(struct.pack("<Q", length) + tail)
