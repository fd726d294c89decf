"""Computing on weights that are still arriving gives the right bits: busy streams, many streams, poisoned memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from streamload._checkpoint import open as open_checkpoint
from streamload._engine import CopyEngine, open_device
from streamload.errors import DeviceError
from streamload.testing import FaultySource
from streamload.torch import load_file, stream_module

BUSY_CYCLES = 1_500_000_000  # about a second of a GPU at 1.5 GHz


def held(gate):
    """Wrap sources so that the first read of every shard but the first waits for a gate."""
    return lambda number, source: source if number == 0 else FaultySource(source, hold={0: gate})


def test_forward_over_poisoned_memory_is_right(place, checkpoint_path, make_module, ids, answer, same_bits):
    for _ in range(5):
        place.poison(32 << 20)
        module = make_module()
        with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine, torch.no_grad():
            loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
            first = module(ids.to(place.torch_device))
            loading.wait(timeout=60)
        assert same_bits(first, answer)


def test_forward_begins_before_the_rest_may_be_read(place, open_through, make_module, ids, answer, same_bits):
    gate = threading.Event()
    module = make_module()
    began = threading.Event()
    module.model.embed_tokens.register_forward_hook(lambda *_: began.set())
    with open_through(held(gate)) as checkpoint, place.engine() as engine, ThreadPoolExecutor(1) as pool:
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        with torch.no_grad():
            first = pool.submit(torch.no_grad()(module), ids.to(place.torch_device))
        assert began.wait(timeout=60), "the embedding has its weights while the other shards may not be read"
        assert not loading.done
        gate.set()
        assert same_bits(first.result(timeout=60), answer)
        loading.wait(timeout=60)


def test_threads_with_streams_of_their_own_all_see_the_bytes(place, open_through, make_module, ids, answer, same_bits):
    gate = threading.Event()
    place.poison(32 << 20)
    module = make_module()

    def compute() -> torch.Tensor:
        with torch.no_grad():
            if not place.on_gpu:
                return module(ids)
            with torch.cuda.stream(torch.cuda.Stream()):
                return module(ids.to(place.torch_device)).cpu()

    with open_through(held(gate)) as checkpoint, place.engine() as engine, ThreadPoolExecutor(6) as pool:
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        answers = [pool.submit(compute) for _ in range(6)]
        gate.set()
        assert all(same_bits(given.result(timeout=60), answer) for given in answers)
        loading.wait(timeout=60)


def test_state_dict_waits_for_what_it_returns(place, checkpoint_path, make_module, expected, same_bits):
    place.poison(32 << 20)
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine:
        stream_module(module, checkpoint, place.torch_device, engine=engine)
        copied = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert all(same_bits(copied[name], tensor) for name, tensor in expected.items())


@pytest.mark.needs_cuda
def test_forward_is_queued_while_the_device_is_busy(checkpoint_path, make_module, ids, expected, same_bits):
    """Nothing on the way synchronises the host: all is queued behind a kernel that runs for a second."""
    warm = make_module().to_empty(device="cuda:0")
    prompt = ids.to("cuda:0")
    with torch.no_grad():
        warm(prompt)  # what cuBLAS makes on its first call may synchronise
        warm.load_state_dict({name: tensor.to("cuda:0") for name, tensor in expected.items()}, assign=True)
        answer = warm(prompt).cpu()
    with open_checkpoint(checkpoint_path) as checkpoint, CopyEngine(open_device("cuda:0")) as engine, torch.no_grad():
        stream_module(make_module(), checkpoint, "cuda:0", engine=engine).wait(timeout=60)  # pins the ring
        torch.cuda.synchronize()
        module, busy = make_module(), torch.cuda.Event()
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.cuda._sleep(BUSY_CYCLES)
            busy.record()
            loading = stream_module(module, checkpoint, "cuda:0", engine=engine)
            first = module(prompt)
            assert not busy.query(), "the host came back while the device was still busy"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert same_bits(first, answer)
        loading.wait(timeout=60)


@pytest.mark.needs_cuda
def test_memory_still_in_use_by_queued_work_is_not_overwritten(checkpoint_path, same_bits):
    """The allocator hands out memory whose last use is still queued; the first copy must wait for that."""
    file = sorted(checkpoint_path.glob("*.safetensors"))[0]
    expected = load_file(file)
    size = sum(tensor.nbytes for tensor in expected.values()) + (1 << 20)
    for _ in range(3):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        scratch = torch.empty(size, dtype=torch.uint8, device="cuda:0")
        torch.cuda._sleep(BUSY_CYCLES // 10)
        scratch.fill_(0xA5)
        del scratch  # given out again at once, with the fill still queued
        loaded = load_file(file, device="cuda:0")
        assert all(same_bits(loaded[name], tensor) for name, tensor in expected.items())


@pytest.mark.needs_cuda
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_graph_capture_is_refused_while_weights_arrive_and_right_after(
    open_through, make_module, ids, expected, same_bits
):
    gate = threading.Event()
    module, prompt = make_module(), ids.to("cuda:0")
    with open_through(held(gate)) as checkpoint, torch.no_grad():
        loading = stream_module(module, checkpoint, "cuda:0")
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(DeviceError, match="graph"), torch.cuda.graph(graph):
            module(prompt)
        torch.cuda.synchronize()
        gate.set()
        loading.wait(timeout=60)
        answer = module(prompt)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = module(prompt)
        graph.replay()
        torch.cuda.synchronize()
    assert same_bits(captured, answer)
    assert all(same_bits(parameter, expected[name]) for name, parameter in module.named_parameters())
