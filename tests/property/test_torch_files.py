"""Any file that safetensors reads gives the same names, dtypes, shapes and bytes through every door of streamload."""

from __future__ import annotations

import json
import math

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open as safetensors_open

import streamload
from streamload._format import DTYPE_BITS
from streamload.torch import iter_tensors, load, load_file, safe_open, stream, stream_module

pytestmark = pytest.mark.slow

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = sorted(set(DTYPE_BITS) - {"F6_E2M3", "F6_E3M2"})  # torch has no dtype for those two


def shapes(dtype):
    sizes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
    return sizes.map(lambda shape: (*shape, 4)) if dtype == "F4" else sizes


@st.composite
def entries(draw):
    """Dtype, shape and bytes of one tensor."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(shapes(dtype))
    nbytes = math.prod(shape) * DTYPE_BITS[dtype] // 8
    return dtype, shape, draw(st.binary(min_size=nbytes, max_size=nbytes))


names = st.one_of(
    st.sampled_from(["lm_head.weight", "model.layers.2.w", "model.layers.10.w", "model.norm.weight", "a.b.c"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
).filter(lambda name: name != "__metadata__")


def pack(tensors, pad=0, metadata=None):
    """The bytes of a file; `pad` blanks end the header and so decide how its tensors are aligned."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode() + b" " * pad
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


pads = st.integers(0, 9)
texts = st.text(st.characters(exclude_categories=["Cs"]))
files = st.builds(pack, st.dictionaries(names, entries(), max_size=6), pads, st.none() | st.dictionaries(texts, texts))


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def same(got, expected):
    """Equal in dtype, shape and every byte."""
    return got.dtype == expected.dtype and got.shape == expected.shape and torch.equal(raw(got), raw(expected))


def assert_same(got, expected):
    assert set(got) == set(expected)
    assert not [name for name in expected if not same(got[name], expected[name])]


def in_order(tensors):
    """Names by offset; where tensors of no bytes go among them, safetensors leaves to a hash table."""
    return [name for name, tensor in tensors.items() if tensor.nbytes]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Where each example's file is written."""
    return tmp_path_factory.mktemp("files") / "model.safetensors"


@given(data=files)
def test_load_file_equals_safetensors(path, data):
    path.write_bytes(data)
    expected = safetensors.torch.load_file(path)
    got = load_file(path)
    assert in_order(got) == in_order(expected)
    assert_same(got, expected)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in got.values())
    assert all(tensor.data_ptr() % tensor.element_size() == 0 and not tensor._is_view() for tensor in got.values())


@given(data=files)
def test_load_equals_safetensors(path, data):
    path.write_bytes(data)
    assert_same(load(data), safetensors.torch.load_file(path))


@given(data=files)
def test_safe_open_equals_safetensors(path, data):
    path.write_bytes(data)
    with safetensors_open(path, "pt") as expected, safe_open(path, "pt") as got:
        assert got.keys() == expected.keys()
        assert in_order(got.get_tensors()) == in_order(expected.get_tensors())
        assert sorted(got.offset_keys()) == got.keys()
        assert (got.metadata() or {}) == (expected.metadata() or {})  # an empty one is none
        for name in expected.keys():  # noqa: SIM118  # not a mapping
            assert same(got.get_tensor(name), expected.get_tensor(name))
            assert got.get_slice(name).get_shape() == expected.get_slice(name).get_shape()
            assert got.get_slice(name).get_dtype() == expected.get_slice(name).get_dtype()
        assert_same(got.get_tensors(), expected.get_tensors())


@given(data=files)
def test_iter_tensors_and_stream_give_every_tensor_once(path, data):
    path.write_bytes(data)
    expected = safetensors.torch.load_file(path)
    pairs = list(iter_tensors(path))
    assert len(pairs) == len(expected)
    assert_same(dict(pairs), expected)
    with streamload.open(path) as checkpoint, stream(checkpoint, "cpu") as layers:
        got = [layer.tensors for layer in layers]
        assert [name for layer in checkpoint.layers for name in [t.name for t in layer.tensors]] == [
            name for layer in got for name in layer
        ]
    assert_same({name: tensor for layer in got for name, tensor in layer.items()}, expected)


@given(tensors=st.lists(entries(), max_size=6), pad=pads)
def test_stream_module_takes_over_every_dtype_and_shape(path, tensors, pad):
    path.write_bytes(pack({f"t{number}": entry for number, entry in enumerate(tensors)}, pad))
    expected = safetensors.torch.load_file(path)
    module = torch.nn.Module()
    for name, tensor in expected.items():
        module.register_buffer(name, torch.empty(tensor.shape, dtype=torch.int8, device="meta"))
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu")
    assert_same(module.state_dict(), expected)
    loading.wait()
    assert all(type(tensor) is torch.Tensor for tensor in module.buffers())


@st.composite
def indices(draw, shape):
    """What may stand between the brackets for a tensor of this shape; most of it valid."""
    parts = []
    for extent in shape[: draw(st.integers(0, len(shape)))]:
        bound = st.none() | st.integers(-extent - 1, extent + 1)
        choices = [st.builds(slice, bound, bound, st.none() | st.integers(1, 3))]
        if extent:
            choices += [st.integers(-extent, extent - 1), st.lists(st.integers(-extent, extent - 1), max_size=3)]
        parts.append(draw(st.one_of(choices)))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), ...)
    return tuple(parts) if len(parts) != 1 or draw(st.booleans()) else parts[0]


@given(data=st.data(), entry=entries(), pad=pads)
@settings(max_examples=300)
def test_slices_equal_safetensors_and_read_only_their_bytes(path, data, entry, pad):
    path.write_bytes(pack({"t": entry}, pad))
    whole = safetensors.torch.load_file(path)["t"]
    index = data.draw(indices(tuple(whole.shape)))
    numbers = whole.view(INTEGERS[whole.itemsize])  # torch indexes more ways in those than in some floats
    try:
        expected = numbers[index]
    except (IndexError, TypeError) as error:
        with safe_open(path) as file, pytest.raises(type(error)):
            file.get_slice("t")[index]
        return
    with safe_open(path) as file:
        got = file.get_slice("t")[index]
        assert got.dtype == whole.dtype
        assert torch.equal(got.view(numbers.dtype), expected)
        assert got.is_contiguous()
        assert got.untyped_storage().nbytes() == got.nbytes
        assert file.bytes_read <= got.nbytes  # less where an element is asked for twice, none where all are mapped
