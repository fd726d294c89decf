"""When all is resident nothing of the load is left, and memory is accounted for."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import DeviceType
from torch.nn import Parameter

from streamload._checkpoint import open as open_checkpoint
from streamload._models import residue
from streamload.options import StreamOptions
from streamload.torch import load_file, stream_module


def test_module_is_ordinary_once_all_is_resident(place, checkpoint_path, make_module):
    module = make_module()
    kind = type(module)
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine:
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        early = [parameter.untyped_storage().nbytes() for parameter in module.parameters()]
        loading.wait(timeout=60)
        addresses = [parameter.data_ptr() for parameter in module.parameters()]
    assert residue(module) == ()
    assert type(module) is kind
    for parameter, nbytes, address in zip(module.parameters(), early, addresses, strict=True):
        assert type(parameter) is Parameter
        assert parameter.untyped_storage().nbytes() == nbytes == parameter.nbytes
        assert parameter.data_ptr() == address
        assert address % 256 == 0
        assert not parameter.requires_grad


def test_threads_end_with_the_load(place, checkpoint_path, make_module, own_threads):
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine:
        stream_module(make_module(), checkpoint, place.torch_device, engine=engine).close()
    assert not own_threads()


def test_the_ring_is_freed_with_the_engine(place, checkpoint_path, make_module):
    options = StreamOptions(chunk_bytes=1 << 20, staging_bytes=4 << 20)
    engine = place.engine(options)
    with open_checkpoint(checkpoint_path) as checkpoint:
        stream_module(make_module(), checkpoint, place.torch_device, engine=engine).wait(timeout=60)
    assert engine.pinned_bytes <= options.staging_bytes
    engine.close()
    assert engine.pinned_bytes == 0


@pytest.mark.needs_cuda
def test_device_memory_is_that_of_the_weights(checkpoint_path, make_module):
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint:
        stream_module(module, checkpoint, "cuda:0").wait(timeout=60)
        wanted, tensors = checkpoint.nbytes, len(checkpoint)
    held = torch.cuda.memory_allocated() - before
    assert wanted <= held <= wanted + 256 * tensors + (2 << 20), "weights, alignment, and no second copy"
    del module
    assert torch.cuda.memory_allocated() == before


@pytest.mark.needs_cuda
def test_a_dropped_tensor_leaves_the_others_alone(checkpoint_path, expected, same_bits):
    file = sorted(checkpoint_path.glob("*.safetensors"))[0]
    loaded = load_file(file, device="cuda:0")
    kept = list(loaded)[::2]
    for name in list(loaded)[1::2]:
        del loaded[name]
    torch.full((8 << 20,), 7.0, device="cuda:0")  # would land in memory freed too early
    assert all(same_bits(loaded[name], expected[name]) for name in kept)


def launched(event) -> bool:
    """Whether a profiler's event is an operator, a launch or a kernel, and not the profiler's own."""
    return event.key.startswith(("aten::", "cudaLaunch", "cuLaunch")) or event.device_type == DeviceType.CUDA


@pytest.mark.needs_cuda
def test_steady_state_launches_what_a_plain_module_launches(checkpoint_path, make_module, expected, ids):
    """After the load the profiler sees the same operators, kernels and launches as without us."""
    from torch.profiler import ProfilerActivity, profile

    streamed, plain, prompt = make_module(), make_module(), ids.to("cuda:0")
    with open_checkpoint(checkpoint_path) as checkpoint:
        stream_module(streamed, checkpoint, "cuda:0").wait(timeout=60)
    plain.load_state_dict({name: tensor.to("cuda:0") for name, tensor in expected.items()}, assign=True)
    counts = []
    for module in (plain, streamed):
        with torch.no_grad():
            module(prompt)
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
                module(prompt)
                torch.cuda.synchronize()
        counts.append(sorted((event.key, event.count) for event in recorded.key_averages() if launched(event)))
    assert counts[0] == counts[1]
