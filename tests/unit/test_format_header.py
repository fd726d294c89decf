"""The rules of one file's header, each with its smallest example."""

from __future__ import annotations

import gc
import json
import struct
import threading

import pytest

from streamload._format import DTYPE_BITS, MAX_JSON_NBYTES, TensorInfo, header_nbytes, parse_header
from streamload.errors import FormatError

URL = "dir/model.safetensors"


def with_length(header: str | bytes) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text


def entry(dtype="F32", shape=(1,), start=0, end=4, **more: object):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end], **more}


def parse(header: str | bytes | dict, data_nbytes: int = 4, shard: int = 0):
    prefix = with_length(json.dumps(header) if isinstance(header, dict) else header)
    return parse_header(prefix, url=URL, file_nbytes=len(prefix) + data_nbytes, shard=shard)


def raw_tensor(dtype='"F32"', shape="[1]", offsets="[0,4]", more="") -> str:
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}}}'


def test_offsets_count_from_the_start_of_the_file():
    header = parse({"a": entry()}, shard=3)
    assert header.tensors == (TensorInfo("a", "F32", (1,), header.nbytes, header.nbytes + 4, 3),)
    assert header.tensors[0].nbytes == 4
    assert header.metadata == {}


def test_tensors_come_in_file_order_whatever_the_header_says():
    header = parse({"b": entry(start=4, end=8), "c": entry(start=8, end=12), "a": entry()}, 12)
    assert [tensor.name for tensor in header.tensors] == ["a", "b", "c"]


def test_metadata_is_text_by_text():
    assert parse({"__metadata__": {"format": "pt", "": ""}}, 0).metadata == {"format": "pt", "": ""}


def test_metadata_null_means_none():
    assert parse('{"__metadata__":null}', 0).metadata == {}


def test_file_without_tensors_is_valid():
    assert parse("{}", 0).tensors == ()


def test_trailing_spaces_in_the_header_are_padding():
    header = parse(raw_tensor() + " \n\r\t   ")
    assert header.tensors[0].start == header.nbytes


def test_bytes_after_the_header_are_not_looked_at():
    prefix = with_length(raw_tensor()) + b"\xff" * 4
    assert parse_header(prefix, url=URL, file_nbytes=len(prefix)) == parse(raw_tensor())


def test_memoryview_is_read_as_bytes_are():
    prefix = with_length(raw_tensor())
    from_view = parse_header(memoryview(bytearray(prefix)), url=URL, file_nbytes=len(prefix) + 4)
    assert from_view == parse(raw_tensor())


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_takes_its_bits(dtype):
    nbytes = DTYPE_BITS[dtype] * 8 * 3 // 8
    assert parse({"a": entry(dtype, (8, 3), 0, nbytes)}, nbytes).tensors[0].nbytes == nbytes
    with pytest.raises(FormatError, match="takes"):
        parse({"a": entry(dtype, (8, 3), 0, nbytes + 1)}, nbytes + 1)


@pytest.mark.parametrize(("dtype", "elements"), [("F4", 3), ("F6_E2M3", 2), ("F6_E3M2", 5)])
def test_packed_dtype_that_ends_inside_a_byte_is_refused(dtype, elements):
    with pytest.raises(FormatError, match="no whole number of bytes"):
        parse({"a": entry(dtype, (elements,), 0, 2)}, 2)


def test_scalar_has_one_element():
    assert parse({"a": entry(shape=())}).tensors[0].shape == ()


def test_tensors_of_no_elements_may_share_an_offset():
    empty = entry(shape=(2, 0), start=0, end=0)
    header = parse({"b": entry(), "a": empty, "c": entry(shape=(0,), start=4, end=4), "d": empty})
    assert [tensor.nbytes for tensor in header.tensors] == [0, 0, 4, 0]


def test_misaligned_tensor_is_valid():
    header = parse({"a": entry("U8", (1,), 0, 1), "b": entry("F64", (1,), 1, 9)}, 9)
    assert header.tensors[1].start == header.nbytes + 1


def test_unknown_field_of_a_tensor_is_ignored():
    parse({"a": entry(note={"deep": [1, -2.5, None, "x:y"]})})


def test_surrogate_pair_is_one_character():
    assert parse('{"\\ud83d\\ude00":' + raw_tensor()[5:]).tensors[0].name == "\U0001f600"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("", "must start with"),
        (" {}", "must start with"),
        ("[]", "must start with"),
        ("\ufeff{}", "must start with"),
        ("{", "not valid JSON"),
        ("{}\0", "not valid JSON"),
        ("{},", "not valid JSON"),
        (b'{"\xff":1}', "not valid JSON"),
        (b'{"\xed\xa0\x80":1}', "not valid JSON"),
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ('{"a":1}', "tensor 'a': expected an object, got 1"),
        ('{"a":["F32",[1],[0,4]]}', "expected an object"),
        ('{"a":{}}', "no field 'dtype'"),
        ('{"a":{"dtype":"F32","shape":[1]}}', "no field 'data_offsets'"),
        ('{"\\ud800":{}}', "surrogates"),
        ('{"a\\u0000":' + raw_tensor()[5:], "NUL"),
        ('{"a":' + raw_tensor()[5:-1] + ',"a":' + raw_tensor()[5:], "the key 'a' occurs twice"),
        ('{"a:b":' + raw_tensor()[5:-1] + ',"a:b":' + raw_tensor()[5:], "the key 'a:b' occurs twice"),
        (raw_tensor(more=',"dtype":"F32"'), "the key 'dtype' occurs twice"),
        ('{"__metadata__":{},"__metadata__":{}}', "the key '__metadata__' occurs twice"),
        ('{"__metadata__":{"a":"1","a":"2"}}', "the key 'a' occurs twice"),
        ('{"__metadata__":[]}', "__metadata__: expected an object"),
        ('{"__metadata__":{"a":1}}', "expected text under 'a', got 1"),
        ('{"__metadata__":{"a":null}}', "expected text under 'a', got None"),
        (raw_tensor(dtype='"F31"'), "unknown dtype 'F31', known are BOOL"),
        (raw_tensor(dtype='"f32"'), "unknown dtype 'f32'"),
        (raw_tensor(dtype='{"F32":null}'), "unknown dtype"),
        (raw_tensor(dtype="null"), "unknown dtype None"),
        (raw_tensor(shape="1"), "expected a list as shape"),
        (raw_tensor(shape="[1.0]"), "expected whole numbers"),
        (raw_tensor(shape="[true]"), "expected whole numbers"),
        (raw_tensor(shape="[-1]"), "expected whole numbers"),
        (raw_tensor(shape="[-0]", offsets="[0,0]"), "expected whole numbers"),
        (raw_tensor(shape='["1"]'), "expected whole numbers"),
        (raw_tensor(shape="[0,18446744073709551616]", offsets="[0,0]"), "expected whole numbers"),
        (raw_tensor(shape="[4294967296,4294967296,0]", offsets="[0,0]"), "overflows 64 bits"),
        (raw_tensor(shape="[4611686018427387904]", offsets="[0,0]"), "overflows 64 bits"),
        (raw_tensor(offsets="4"), "expected two whole numbers"),
        (raw_tensor(offsets="[4]"), "expected two whole numbers"),
        (raw_tensor(offsets="[0,4,4]"), "expected two whole numbers"),
        (raw_tensor(offsets="[0,4.0]"), "expected two whole numbers"),
        (raw_tensor(offsets="[false,4]"), "expected two whole numbers"),
        (raw_tensor(offsets="[-4,0]"), "got data_offsets"),
        (raw_tensor(offsets="[4,0]"), "got data_offsets"),
        (raw_tensor(offsets="[0,3]"), "F32 of shape [1] takes 4 bytes, got data_offsets [0, 3]"),
        (raw_tensor(offsets="[1,5]"), "leaves a hole"),
        ("{" + raw_tensor()[1:-1] + ',"b":' + raw_tensor()[5:], "tensor 'b' overlaps"),
        (raw_tensor(shape="[2]", offsets="[0,8]"), "it was cut off"),
        ("{}", "something was appended"),
        (raw_tensor(more=',"x":' + "9" * 400), "out of range"),
        (raw_tensor(more=',"x":{"y:":' + "9" * 400 + "}"), "out of range"),
        (raw_tensor(more=',"x":1e999'), "out of range"),
        (raw_tensor(more=',"x":' + "[" * 126 + "]" * 126), "nested"),
        ("{" * 50 + "}" * 50, "not valid JSON"),
        ('{"a":' * 100_000, "nested"),
    ],
)
def test_invalid_header_is_refused_with_its_reason(header, says):
    with pytest.raises(FormatError) as caught:
        parse(header)
    text = str(caught.value)
    assert text.startswith(URL)
    assert says in text
    assert len(text) < 1000


def test_zero_dimension_before_an_overflow_is_zero_bytes():
    shape = "[0,4294967296,4294967296]"
    assert parse(raw_tensor(shape=shape, offsets="[0,0]"), 0).tensors[0].nbytes == 0


def test_nesting_that_serde_allows_in_an_unknown_field_is_allowed():
    parse(raw_tensor(more=',"x":' + "[" * 125 + "]" * 125))


def test_deep_stack_of_the_caller_is_still_a_format_error():
    def descend(levels):
        return descend(levels - 1) if levels else parse('{"a":' + "[" * 600 + "]" * 600 + "}")

    with pytest.raises(FormatError):
        descend(500)


def test_header_length_is_checked_against_the_cap_and_the_file():
    assert header_nbytes(struct.pack("<Q", 2), url=URL, file_nbytes=10) == 10
    at_cap = struct.pack("<Q", MAX_JSON_NBYTES)
    assert header_nbytes(at_cap, url=URL, file_nbytes=1 << 30) == MAX_JSON_NBYTES + 8
    with pytest.raises(FormatError, match=f"{URL}.*9223372036854775808 bytes, the format allows 100000000"):
        header_nbytes(struct.pack("<Q", 1 << 63), url=URL, file_nbytes=1 << 40)
    with pytest.raises(FormatError, match="100000001"):
        header_nbytes(struct.pack("<Q", MAX_JSON_NBYTES + 1), url=URL, file_nbytes=1 << 40)
    with pytest.raises(FormatError, match="cut off"):
        header_nbytes(struct.pack("<Q", 3), url=URL, file_nbytes=10)


@pytest.mark.parametrize("count", range(8))
def test_file_shorter_than_its_length_field_is_refused(count):
    with pytest.raises(FormatError, match=f"{count} bytes long"):
        header_nbytes(bytes(count), url=URL, file_nbytes=count)


def test_prefix_shorter_than_the_header_is_refused():
    with pytest.raises(FormatError, match="got 12 of its 60 bytes"):
        parse_header((struct.pack("<Q", 52) + bytes(100))[:12], url=URL, file_nbytes=100)


@pytest.mark.parametrize(
    ("first8", "says"),
    [
        (b"PK\x03\x04\0\0\x08\x08", "zip archive, as torch.save writes it"),
        (b"\x80\x02\x8a\nl\xfc\x9cF", "a pickle"),
        (b"GGUF\3\0\0\x01", "a GGUF file"),
        (b"version ", "git lfs pull"),
        (b"# My mod", "a text file that starts with '# My mod'"),
    ],
)
def test_other_kinds_of_file_are_named(first8, says):
    with pytest.raises(FormatError, match=says):
        header_nbytes(first8, url=URL, file_nbytes=1 << 20)


def large_header(tensors: int) -> tuple[bytes, int]:
    header = {
        f"model.layers.{i // 1500}.experts.{i}.w": entry("BF16", (16, 8), i * 256, i * 256 + 256)
        for i in range(tensors)
    }
    prefix = with_length(json.dumps(header))
    return prefix, len(prefix) + tensors * 256


def test_parsing_takes_a_few_calls_a_tensor(count_calls):
    prefix, file_nbytes = large_header(2_000)
    assert count_calls(lambda: parse_header(prefix, url=URL, file_nbytes=file_nbytes)) < 12 * 2_000


def test_colon_in_a_name_costs_the_strict_decoder_and_no_more(count_calls):
    prefix, file_nbytes = large_header(2_000)
    prefix = prefix.replace(b"experts.7.w", b"experts:7:w")
    assert count_calls(lambda: parse_header(prefix, url=URL, file_nbytes=file_nbytes)) < 40 * 2_000


@pytest.mark.slow
def test_collector_is_as_it_was_after_a_large_header():
    prefix, file_nbytes = large_header(12_000)
    threads = [
        threading.Thread(target=parse_header, args=[prefix], kwargs={"url": URL, "file_nbytes": file_nbytes})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
    with pytest.raises(FormatError):
        parse_header(prefix, url=URL, file_nbytes=file_nbytes - 1)
    assert gc.isenabled()
    gc.disable()
    try:
        parse_header(prefix, url=URL, file_nbytes=file_nbytes)
        assert not gc.isenabled()
    finally:
        gc.enable()
