"""On CUDA: streams, compiled code, sampling and threads on weights that are still arriving give the right bits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from streamload._checkpoint import open as open_checkpoint
from streamload.testing import FaultySource
from streamload.torch import stream_module

pytestmark = pytest.mark.needs_cuda


@pytest.fixture
def cuda_answer(make_module, expected, ids):
    """A loaded module on the device, and its logits."""
    module = make_module()
    module.load_state_dict({name: tensor.to("cuda:0") for name, tensor in expected.items()}, assign=True)
    with torch.no_grad():
        return module, module(ids.to("cuda:0")).cpu()


def held(gate):
    """Wrap sources so that each one's first read waits for a gate."""
    return lambda _, source: FaultySource(source, hold={0: gate})


def poisoned():
    """Fill the memory that torch gives out next with NaN."""
    blocks = [torch.full((4 << 20,), float("nan"), device="cuda:0") for _ in range(4)]
    torch.cuda.synchronize()
    del blocks


@torch.no_grad()
def on_its_own_stream(module, ids):
    with torch.cuda.stream(torch.cuda.Stream()):
        return module(ids.to("cuda:0")).cpu()


@torch.no_grad()
def greedy(module, ids, steps=4):
    """Choose tokens one by one, each choice a synchronisation with the host."""
    tokens = ids.to("cuda:0")
    for _ in range(steps):
        tokens = torch.cat([tokens, module(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens.cpu()


@pytest.mark.parametrize("block_hooks", [False, True])
def test_each_stream_orders_itself(block_hooks, open_through, make_module, ids, cuda_answer, same_bits):
    """Two streams of one thread, the second while the first is busy: each waits for the bytes by itself."""
    _, answer = cuda_answer
    gate = threading.Event()
    poisoned()
    module, prompt = make_module(), ids.to("cuda:0")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with open_through(held(gate)) as checkpoint, torch.no_grad():
        loading = stream_module(module, checkpoint, "cuda:0", block_hooks=block_hooks)
        gate.set()
        with torch.cuda.stream(first):
            torch.cuda._sleep(50_000_000)
            one = module(prompt)
        with torch.cuda.stream(second):
            other = module(prompt)
        torch.cuda.synchronize()
        loading.wait(timeout=60)
    assert same_bits(one, answer)
    assert same_bits(other, answer)
    assert not [name for name, owner in module.named_modules() if owner._forward_pre_hooks]


@pytest.mark.parametrize("block_hooks", [False, True])
def test_threads_sampling_and_computing_at_once(block_hooks, open_through, make_module, ids, cuda_answer, same_bits):
    loaded, answer = cuda_answer
    tokens = greedy(loaded, ids)
    gate = threading.Event()
    poisoned()
    module = make_module()
    with open_through(held(gate)) as checkpoint, ThreadPoolExecutor(4) as pool:
        loading = stream_module(module, checkpoint, "cuda:0", block_hooks=block_hooks)
        answers = [pool.submit(on_its_own_stream, module, ids) for _ in range(2)]
        sampled = [pool.submit(greedy, module, ids) for _ in range(2)]
        gate.set()
        assert all(same_bits(one.result(timeout=60), answer) for one in answers)
        assert all(torch.equal(one.result(timeout=60), tokens) for one in sampled)
        loading.wait(timeout=60)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_in_flight_it_is_right_and_compiled_once(
    backend, open_through, make_module, ids, cuda_answer, same_bits
):
    loaded, _ = cuda_answer
    gate = threading.Event()
    module, prompt = make_module(), ids.to("cuda:0")
    torch._dynamo.reset()
    with open_through(held(gate)) as checkpoint, torch.no_grad():
        answer = torch.compile(loaded, backend=backend)(prompt)
        torch._dynamo.reset()
        poisoned()
        loading = stream_module(module, checkpoint, "cuda:0")
        gate.set()
        compiled = torch.compile(module, backend=backend)
        first = compiled(prompt)
        loading.wait(timeout=60)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert same_bits(compiled(prompt), first)
    assert same_bits(first, answer)
    torch._dynamo.reset()


def test_a_pointer_used_in_a_hooked_block_sees_the_bytes(checkpoint_path, make_module, expected, ids, same_bits):
    """What a C++ extension does: memory taken down before the load, used on the current stream in a block's forward."""
    seen = {}
    for _ in range(3):
        poisoned()
        module = make_module()
        with open_checkpoint(checkpoint_path) as checkpoint, torch.no_grad():
            loading = stream_module(module, checkpoint, "cuda:0", block_hooks=True)
            block = module.model.layers[-1]
            name, weight = next(iter(block.named_parameters()))
            with torch._C.DisableTorchFunctionSubclass():
                behind = torch.Tensor._make_subclass(torch.Tensor, weight, False)  # the same memory, with no gate
            block.register_forward_pre_hook(lambda *_, behind=behind: seen.update(copy=behind.clone()))
            module(ids.to("cuda:0"))
            loading.wait(timeout=60)
        torch.cuda.synchronize()
        last = f"model.layers.{len(module.model.layers) - 1}.{name}"
        assert same_bits(seen["copy"], expected[last])
