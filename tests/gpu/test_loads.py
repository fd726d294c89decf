"""What arrives on the device is what safetensors reads, bit for bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from streamload._checkpoint import open as open_checkpoint
from streamload.options import StreamOptions
from streamload.torch import iter_tensors, load_file, stream, stream_module

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.fixture
def mixed_file(tmp_path):
    """One file of every dtype: scalars, empty tensors, odd sizes, so that offsets are misaligned."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for dtype in DTYPES:
        for shape in ((), (0, 3), (1,), (7, 13), (333, 41)):
            width = torch.empty(0, dtype=dtype).element_size()
            count = torch.Size(shape).numel() * width
            raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
            tensors[f"{dtype}-{'x'.join(map(str, shape))}".removeprefix("torch.")] = raw.view(dtype).reshape(shape)
    save_file(tensors, tmp_path / "mixed.safetensors")
    return tmp_path / "mixed.safetensors", tensors


def test_load_file_equals_safetensors(place, mixed_file, same_bits):
    path, tensors = mixed_file
    loaded = load_file(path, device=place.torch_device)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same_bits(loaded[name], tensor), name
        assert str(loaded[name].device) == place.torch_device


def test_iter_tensors_equals_safetensors(place, mixed_file, same_bits):
    path, tensors = mixed_file
    with place.engine() as engine:
        arrived = dict(iter_tensors(path, place.torch_device, engine=engine))
    assert arrived.keys() == tensors.keys()
    assert all(same_bits(arrived[name], tensor) for name, tensor in tensors.items())


def test_iter_tensors_reads_only_what_is_named(place, checkpoint_path, expected, same_bits):
    names = ["lm_head.weight", "model.layers.3.mlp.up_proj.weight"]
    with place.engine() as engine:
        arrived = dict(iter_tensors(checkpoint_path, place.torch_device, names=names, engine=engine))
    assert sorted(arrived) == sorted(names)
    assert all(same_bits(arrived[name], expected[name]) for name in names)


def test_layers_stream_in_order(place, checkpoint_path, expected, same_bits):
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine:
        order = [layer.name for layer in checkpoint.layers]
        with stream(checkpoint, place.torch_device, engine=engine) as layers:
            arrived = list(layers)
    assert [layer.name for layer in arrived] == order
    for layer in arrived:
        assert all(same_bits(tensor, expected[name]) for name, tensor in layer.tensors.items())


@pytest.mark.parametrize("direct_io", [True, False, None])
def test_module_equals_safetensors(place, checkpoint_path, make_module, expected, same_bits, direct_io):
    module = make_module()
    options = StreamOptions(chunk_bytes=1 << 20, staging_bytes=4 << 20, direct_io=direct_io)
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine(options) as engine:
        stream_module(module, checkpoint, place.torch_device, engine=engine).wait(timeout=60)
    assert all(same_bits(parameter, expected[name]) for name, parameter in module.named_parameters())


def test_real_parameters_are_filled_where_they_are(place, checkpoint_path, make_module, expected, same_bits):
    module = make_module().to_empty(device=place.torch_device)
    before = [parameter.data_ptr() for parameter in module.parameters()]
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine:
        stream_module(module, checkpoint, place.torch_device, engine=engine).wait(timeout=60)
    assert [parameter.data_ptr() for parameter in module.parameters()] == before
    assert all(same_bits(parameter, expected[name]) for name, parameter in module.named_parameters())
