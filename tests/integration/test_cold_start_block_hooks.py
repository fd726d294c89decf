"""With block_hooks a block waits before its forward for what the gate cannot see used; then the hooks are gone."""

from __future__ import annotations

import copy
import ctypes
import pickle
import threading

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._dynamo.utils import counters

from streamload.errors import SourceError, StreamClosedError
from streamload.torch import _block_hooks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

X = torch.ones(2, 8)
FLOATS = ctypes.c_float * 64


class Block(nn.Module):
    """A block that uses its weight in a way of the test's."""

    def __init__(self, use):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(8))
        self.inner = nn.Linear(8, 8)
        self.use = use

    def forward(self, x):
        return self.use(self, x)


class Model(nn.Module):
    """Two such blocks, a tied head and an embedding."""

    def __init__(self, use):
        super().__init__()
        self.embed = nn.Embedding(8, 8)
        self.layers = nn.ModuleList([Block(use), Block(use)])
        self.head = nn.Linear(8, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def by_pointer(block, x):
    """Read the weight where it was said to be before the load, past torch, as an extension would."""
    raw = FLOATS.from_address(block.address)
    return x @ torch.tensor(list(raw)).view(8, 8) + block.bias


def scripted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.t()


def inner_loss(parameters, block, x):
    return torch.func.functional_call(block.inner, parameters, (x,)).square().mean()


@torch.compiler.disable
def gradients(block, x):
    """torch.func, which unwraps tensors in C++."""
    found = torch.func.grad(inner_loss)(dict(block.inner.named_parameters()), block, x)
    return x @ found["weight"] + torch.vmap(torch.mv, in_dims=(0, None))(block.weight.expand(2, 8, 8), x[0])


def plainly(block, x):
    return torch.tanh(block.inner(x @ block.weight) + block.bias)


USES = {
    "a pointer": by_pointer,
    "a scripted function": lambda block, x: torch.jit.script(scripted)(x, block.weight),
    "torch.func": gradients,
    "torch.tensor": lambda block, x: x @ torch.tensor(block.weight.tolist()) + torch.Tensor(block.bias),
    "plainly": plainly,
}


@pytest.fixture
def saved(tmp_path):
    """A function that makes a model, real and on meta, and its directory."""

    def make(use):
        torch.manual_seed(0)
        loaded = Model(use).eval()
        save_file({k: v for k, v in loaded.state_dict().items() if k != "head.weight"}, tmp_path / "model.safetensors")
        with torch.device("meta"):
            return loaded, Model(use).eval(), tmp_path

    return make


def remember_addresses(model):
    """Take down where the weights are, without waiting for them."""
    with torch._C.DisableTorchFunctionSubclass():
        for block in model.layers:
            block.address = block.weight.data_ptr()


def hooked(model):
    return [name for name, module in model.named_modules() if module._forward_pre_hooks]


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_block_has_its_bytes_before_its_forward(use, saved, start_held, leftovers):
    loaded, model, path = saved(use)
    loading = start_held(model, path, block_hooks=True)
    assert hooked(model) == ["layers.0", "layers.1", "head"]
    remember_addresses(model)
    remember_addresses(loaded)
    with torch.no_grad():
        got = model(X)
        loading.wait(60)
        assert torch.equal(got, loaded(X))
        assert torch.equal(model(X), got)
    assert not leftovers(model)


def test_without_them_a_pointer_is_read_too_early(saved, start_held):
    """What the tests above would not show if the hooks did nothing."""
    _, model, path = saved(by_pointer)
    start_held(model, path)
    remember_addresses(model)
    with torch.no_grad():
        assert model(X).isnan().any()


def test_a_hook_is_gone_when_its_block_is_resident(saved, start_held):
    _, model, path = saved(plainly)
    start_held(model, path, block_hooks=True)
    with torch.no_grad():
        model.layers[1](X)
    assert "layers.1" not in hooked(model)


def test_other_hooks_stay_in_their_order_and_see_the_bytes(saved, start_held):
    loaded, model, path = saved(plainly)
    seen = []
    for one in (loaded, model):
        one.layers[0].register_forward_pre_hook(lambda block, _: seen.append(block.bias.detach().clone()))
    loading = start_held(model, path, block_hooks=True)
    with torch.no_grad():
        model(X)
        loading.wait(60)
        assert torch.equal(model(X), loaded(X))
    assert len(seen) == 3
    assert all(torch.equal(one, loaded.layers[0].bias) for one in seen)
    assert hooked(model) == ["layers.0"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_flight_there_is_no_break_and_no_second_graph(backend, saved, start_held, leftovers):
    loaded, model, path = saved(plainly)
    torch._dynamo.reset()
    counters.clear()
    loading = start_held(model, path, block_hooks=True)
    with torch._dynamo.config.patch(error_on_recompile=True, skip_nnmodule_hook_guards=False), torch.no_grad():
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        first = compiled(X)
        assert not hooked(model)
        loading.wait(60)
        assert torch.equal(compiled(X), first)
        assert torch.equal(loaded(X), first)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not leftovers(model)
    torch._dynamo.reset()


def test_compiled_when_some_has_arrived_there_is_one_graph(saved, start_held):
    loaded, model, path = saved(plainly)
    torch._dynamo.reset()
    counters.clear()
    start_held(model, path, block_hooks=True)
    model.state_dict()  # opens every gate, without a forward
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(X), loaded(X))
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_threads_compute_while_hooks_come_off(saved, start_held, leftovers):
    loaded, model, path = saved(plainly)
    loading = start_held(model, path, block_hooks=True)
    answers, barrier = [], threading.Barrier(6)

    @torch.no_grad()
    def compute():
        barrier.wait(60)
        answers.extend([model(X), model(X)])

    threads = [threading.Thread(target=compute) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    loading.wait(60)
    with torch.no_grad():
        expected = loaded(X)
    assert len(answers) == 12
    assert all(torch.equal(answer, expected) for answer in answers)
    assert not leftovers(model)


def test_nobody_computes_and_the_hooks_go_all_the_same(saved, start_held, leftovers):
    _, model, path = saved(plainly)
    loading = start_held(model, path, block_hooks=True)
    model.head.weight.sum()
    loading.wait(60)
    assert not leftovers(model)


@pytest.mark.parametrize("at", range(3))
def test_after_a_failure_a_block_raises_even_where_the_gate_is_blind_until_filled_again(
    at, saved, start_held, leftovers
):
    loaded, model, path = saved(by_pointer)
    loading = start_held(model, path, block_hooks=True, fail={at: OSError(5, "broken")})
    remember_addresses(model)
    remember_addresses(loaded)
    for _ in range(2):
        with torch.no_grad(), pytest.raises(SourceError, match="broken"):
            model(X)
    with pytest.raises(SourceError, match="broken"):
        loading.wait(60)
    with torch.no_grad(), pytest.raises(SourceError, match="broken"):
        model.layers[0](X)
    loading = start_held(model, path, block_hooks=False)
    assert not hooked(model)
    model.state_dict()
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(model(X), loaded(X))
    assert not leftovers(model)


def test_a_cancelled_load_raises_from_the_block(saved, start_held):
    _, model, path = saved(by_pointer)
    start_held(model, path, block_hooks=True).cancel()
    with torch.no_grad(), pytest.raises(StreamClosedError):
        model(X)


def test_a_hooked_block_is_neither_copied_nor_pickled(models, start_held):
    model = models.empty("llama")
    loading = start_held(model, models.directory("llama"), block_hooks=True)
    block = model.model.layers[0]  # its hooks come before the tensors in it
    with pytest.raises(RuntimeError, match="cannot be copied"):
        copy.deepcopy(block)
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        pickle.dumps(block)
    model.lm_head.weight.sum()
    loading.wait(60)
    assert len(list(copy.deepcopy(block).parameters())) == len(list(block.parameters()))


def test_each_layer_is_a_block_and_an_embedding_is_none(models, start_held):
    model = models.empty("llama")
    start_held(model, models.directory("llama"), block_hooks=True)
    assert hooked(model) == ["model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    _block_hooks.unhook_blocks(model.modules())
    assert not hooked(model)


@pytest.mark.parametrize("name", ["llama-tied", "qwen3-moe", "t5", "gpt2", "vit"])
def test_real_models_give_what_stock_gives(name, models, start_held, assert_same, leftovers):
    model, inputs = models.empty(name), models.inputs(name)
    loading = start_held(model, models.directory(name), block_hooks=True)
    assert hooked(model)
    with torch.no_grad():
        got = model(**inputs)
        loading.wait(60)
        assert_same(got, models.stock(name)(**inputs))
    assert not leftovers(model)
