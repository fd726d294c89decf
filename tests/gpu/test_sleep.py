"""Sleep gives a GPU's memory back, wake brings the same bytes; weights pass through slots of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamload._checkpoint import open as open_checkpoint
from streamload.errors import DeviceError, StreamClosedError
from streamload.options import StreamOptions
from streamload.torch import stream_module


def test_ten_nights_bring_the_same_bits(place, checkpoint_path, make_module, ids, answer, same_bits):
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine, torch.no_grad():
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        for _ in range(10):
            place.poison(32 << 20)
            assert same_bits(module(ids.to(place.torch_device)), answer)
            loading.sleep()
            with pytest.raises(StreamClosedError, match=r"wake\(\)"):
                module(ids.to(place.torch_device))
            loading.wake()
        loading.wait(timeout=60)
        assert same_bits(module(ids.to(place.torch_device)), answer)


@pytest.mark.needs_cuda
def test_sleep_gives_the_memory_back(checkpoint_path, make_module):
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint:
        loading = stream_module(module, checkpoint, "cuda:0")
    loading.wait(timeout=60)
    assert torch.cuda.memory_allocated() > before
    loading.sleep()
    assert torch.cuda.memory_allocated() == before
    loading.wake()
    loading.wait(timeout=60)
    assert torch.cuda.memory_allocated() > before


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("host_memory", [0, 64 << 20], ids=["from files", "from host memory"])
def test_weights_that_exceed_the_device_pass_through_slots(
    place, checkpoint_path, make_module, ids, answer, same_bits, host_memory, debug
):
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint, torch.no_grad():
        options = replace(
            place.engine().options, device_memory=checkpoint.nbytes * 3 // 4, host_memory=host_memory, debug=debug
        )
        with place.engine(options) as engine:
            loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
            assert 0 < loading.streamed_bytes < checkpoint.nbytes
            for _ in range(10):
                place.poison(32 << 20)
                assert same_bits(module(ids.to(place.torch_device)), answer)
            place.synchronize()
            stats = loading.rotation_stats()
            assert stats is not None
            assert stats.bytes_streamed >= 9 * loading.streamed_bytes
            loading.close()


@pytest.mark.needs_cuda
def test_capture_of_a_streamed_model_is_refused(checkpoint_path, make_module, ids):
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint, torch.no_grad():
        options = StreamOptions(device_memory=checkpoint.nbytes * 3 // 4)
        loading = stream_module(module, checkpoint, "cuda:0", options=options)
        module(ids.to("cuda:0"))
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(DeviceError, match="cannot be captured"), torch.cuda.graph(graph):
            module(ids.to("cuda:0"))
        loading.close()
