"""The rules of a manifest of checksums."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamload._format._manifest as manifests
from streamload._format import DTYPE_BITS, Manifest, ShardSums, TensorSum, format_manifest, parse_manifest
from streamload.errors import FormatError

URL = "dir/streamload-checksums.json"


def tensor(**fields: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 3], "crc32c": "0123abcd"} | fields


def shard(**fields: object) -> dict[str, object]:
    return {"nbytes": 100, "crc32c": "fedcba98", "tensors": {"a": tensor()}} | fields


def manifest(**fields: object) -> dict[str, object]:
    known = {"format": "streamload-checksums", "version": 1, "algorithm": "crc32c"}
    return known | {"shards": {"x.safetensors": shard()}} | fields


def parse(value: object) -> Manifest:
    return parse_manifest(value if isinstance(value, bytes) else json.dumps(value).encode(), url=URL)


def without(entry: dict[str, object], field: str) -> dict[str, object]:
    return {key: value for key, value in entry.items() if key != field}


def test_a_manifest_says_what_shards_and_tensors_sum_to():
    parsed = parse(manifest())
    expected = {"a": TensorSum("F32", (2, 3), 0x0123ABCD)}
    assert parsed == Manifest({"x.safetensors": ShardSums(100, 0xFEDCBA98, expected)})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": "streamload-checksums", "format": "streamload-checksums"}', "twice"),
        ({}, "expected format 'streamload-checksums', got None"),
        (manifest(format="sha256sums"), "expected format"),
        (manifest(version=2), "expected version 1, got 2"),
        (manifest(version="1"), "expected version 1, got '1'"),
        (manifest(version=1.0), "expected version 1, got 1.0"),
        (manifest(version=True), "expected version 1, got True"),
        (manifest(algorithm="crc32"), "expected algorithm 'crc32c'"),
        (manifest(more=1), "unknown field 'more'"),
        (without(manifest(), "shards"), "no field 'shards'"),
        (manifest(shards=[]), "expected an object, got []"),
        (manifest(shards={"../x": shard()}), "refused: expected a plain relative path"),
        (manifest(shards={"/etc/passwd": shard()}), "refused: expected a plain relative path"),
        (manifest(shards={"x": 1}), "shard 'x': expected an object"),
        (manifest(shards={"x": shard(nbytes=-1)}), "as nbytes, got -1"),
        (manifest(shards={"x": shard(nbytes=1 << 64)}), "as nbytes"),
        (manifest(shards={"x": shard(nbytes=1.5)}), "as nbytes"),
        (manifest(shards={"x": shard(nbytes=True)}), "as nbytes"),
        (manifest(shards={"x": shard(more=1)}), "unknown field 'more'"),
        (manifest(shards={"x": without(shard(), "crc32c")}), "no field 'crc32c'"),
        (manifest(shards={"x": shard(tensors=[])}), "shard 'x': expected an object, got []"),
        (manifest(shards={"x": shard(), "y": shard()}), "tensor 'a' is in another shard too"),
        (manifest(shards={"x": shard(tensors={"a\0b": tensor()})}), "must not hold NUL"),
        (manifest(shards={"x": shard(tensors={"a": []})}), "tensor 'a': expected an object"),
        (manifest(shards={"x": shard(tensors={"a": tensor(more=1)})}), "unknown field 'more'"),
        (manifest(shards={"x": shard(tensors={"a": without(tensor(), "dtype")})}), "no field 'dtype'"),
        (manifest(shards={"x": shard(tensors={"a": tensor(dtype="F33")})}), "unknown dtype 'F33'"),
        (manifest(shards={"x": shard(tensors={"a": tensor(dtype=["F32"])})}), "unknown dtype"),
        (manifest(shards={"x": shard(tensors={"a": tensor(shape=2)})}), "expected a list as shape"),
        (manifest(shards={"x": shard(tensors={"a": tensor(shape=[-1])})}), "expected whole numbers"),
        (manifest(shards={"x": shard(tensors={"a": tensor(shape=[1.0])})}), "expected whole numbers"),
        (manifest(shards={"x": shard(tensors={"a": tensor(shape=[1 << 64])})}), "expected whole numbers"),
    ],
)
def test_what_is_no_manifest_is_refused_with_where_it_is_wrong(value, says):
    with pytest.raises(FormatError) as caught:
        parse(value)
    assert says in str(caught.value)
    assert str(caught.value).startswith(URL)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "crc", ["", "0123abc", "0123abcde", "0123ABCD", "0x23abcd", "0123abc ", " 0123abc", "+123abcd", 7]
)
def test_a_checksum_is_eight_digits_in_lower_case(crc):
    for value in (shard(crc32c=crc), shard(tensors={"a": tensor(crc32c=crc)})):
        with pytest.raises(FormatError, match="expected eight hexadecimal digits"):
            parse(manifest(shards={"x": value}))


def test_equal_keys_are_refused_at_every_depth():
    text = json.dumps(manifest())
    for key in ("version", "x.safetensors", "nbytes", "a", "dtype"):
        at = text.index(f'"{key}"')
        value, _ = json.JSONDecoder().raw_decode(text, text.index(":", at) + 2)
        doubled = f'{text[:at]}"{key}": {json.dumps(value)}, {text[at:]}'
        with pytest.raises(FormatError, match="occurs twice"):
            parse(doubled.encode())


def test_a_manifest_over_the_cap_is_refused_unread(monkeypatch):
    monkeypatch.setattr(manifests, "MAX_JSON_NBYTES", 10)
    with pytest.raises(FormatError, match="at most 10 are allowed"):
        parse(b"x" * 11)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
CRCS = st.integers(0, (1 << 32) - 1)
TENSORS = st.builds(
    TensorSum, st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 1000), max_size=4).map(tuple), CRCS
)


@st.composite
def some_manifests(draw):
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    shards: dict[str, dict[str, TensorSum]] = {f"{n}.safetensors": {} for n in range(draw(st.integers(1, 3)))}
    for name in names:
        shards[draw(st.sampled_from(sorted(shards)))][name] = draw(TENSORS)
    return Manifest({name: ShardSums(draw(st.integers(0, 1 << 63)), draw(CRCS), held) for name, held in shards.items()})


@given(some_manifests())
def test_what_is_written_is_read_back(value):
    text = format_manifest(value)
    assert parse_manifest(text.encode(), url=URL) == value
    assert json.loads(text)["algorithm"] == "crc32c"


@given(st.data())
def test_a_damaged_manifest_ends_in_a_format_error_or_is_one(data):
    text = bytearray(json.dumps(manifest()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = parse_manifest(text, url=URL)
    except FormatError:
        return
    assert parse_manifest(format_manifest(value).encode(), url=URL) == value
