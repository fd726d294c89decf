"""torch.compile begun before, during and after a load: right values, and not one graph more than for a loaded model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.utils import counters

from streamload.errors import SourceError, StreamClosedError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory", "fresh_dynamo")]


@pytest.fixture
def fresh_dynamo():
    """Compile as if nothing had been compiled before; a second compilation of a frame is an error."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()
    counters.clear()


def graphs():
    """Graphs and frames compiled so far, and breaks of a graph."""
    return counters["stats"]["unique_graphs"], counters["frames"]["total"], sum(counters["graph_break"].values())


def cost_of(model, inputs, backend):
    """What compiling a loaded model costs, and what it answers; dynamo forgets it again."""
    with torch.no_grad():
        expected = torch.compile(model, backend=backend)(**inputs)
    cost = graphs()
    torch._dynamo.reset()
    counters.clear()
    return expected, cost


class Plain(torch.nn.Module):
    """A model that compiles at once."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x


class Skipped(Plain):
    """One whose forward dynamo will not compile; it still looks at all that is called there."""

    def forward(self, x):
        torch._dynamo.skip_frame()
        return super().forward(torch.nn.functional.linear(x, self.layers[0].weight.t(), self.layers[0].bias))


@pytest.fixture
def saved(tmp_path):
    """A function that makes a small model, real and on meta, and its directory."""

    def make(kind):
        torch.manual_seed(0)
        loaded = kind()
        save_file(loaded.state_dict(), tmp_path / "model.safetensors")
        with torch.device("meta"):
            return loaded, kind(), tmp_path

    return make


X = torch.ones(2, 8)
ONE_GRAPH = (1, 0, 0)  # with fullgraph=True dynamo counts no frames


# The others of test_cold_start_models are as right here, but compile for seconds each.
@pytest.mark.parametrize(
    ("name", "backend"), [("llama-tied", "aot_eager"), ("qwen3-moe", "eager"), ("vit", "aot_eager")]
)
def test_compiled_in_flight_it_costs_what_the_loaded_model_costs(
    name, backend, models, start_held, assert_same, leftovers
):
    inputs = models.inputs(name)
    expected, cost = cost_of(models.stock(name), inputs, backend)
    model = models.empty(name)
    compiled = torch.compile(model, backend=backend)  # before a byte has a place
    loading = start_held(model, models.directory(name))
    with torch.no_grad():
        first = compiled(**inputs)
        assert graphs() == cost
        loading.wait(60)
        second = compiled(**inputs)
    assert graphs() == cost, "all resident, and yet compiled again"
    assert_same(first, expected)
    assert_same(second, expected)
    assert not leftovers(model)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_and_no_break(backend, saved, start_held):
    loaded, model, path = saved(Plain)
    loading = start_held(model, path)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    first = compiled(X)
    loading.wait(60)
    assert torch.equal(compiled(X), first)
    assert torch.equal(loaded(X), first)
    assert graphs() == ONE_GRAPH


def test_compiled_after_an_eager_forward_in_flight(saved, start_held):
    loaded, model, path = saved(Plain)
    loading = start_held(model, path)
    model(X)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), loaded(X))
    loading.wait(60)
    assert torch.equal(compiled(X), loaded(X))
    assert graphs() == ONE_GRAPH


def test_compiled_when_all_is_resident(saved, start_held):
    loaded, model, path = saved(Plain)
    loading = start_held(model, path)
    model(X)
    loading.wait(60)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(X), loaded(X))
    assert graphs() == ONE_GRAPH


def test_training_a_compiled_model_in_flight(saved, start_held, assert_same):
    loaded, model, path = saved(Plain)
    loading = start_held(model, path)
    torch.compile(model, backend="aot_eager")(X).square().mean().backward()
    loading.wait(60)
    loaded(X).square().mean().backward()
    assert_same([p.grad for p in model.parameters()], [p.grad for p in loaded.parameters()])


def test_threads_compile_and_compute_at_once(saved, start_held):
    loaded, model, path = saved(Plain)
    loading = start_held(model, path)
    compiled = torch.compile(model, backend="eager")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(use, X) for use in (compiled, model, compiled, model)]
        answers = [answer.result(60) for answer in answers]
    loading.wait(60)
    assert all(torch.equal(answer, loaded(X)) for answer in answers)


def test_dynamo_does_not_compile_the_gate(saved, start_held):
    loaded, model, path = saved(Skipped)
    with torch.no_grad():
        expected, cost = cost_of(loaded, {"x": X}, "eager")
        loading = start_held(model, path)
        got = torch.compile(model, backend="eager")(x=X)
        loading.wait(60)
    assert torch.equal(got, expected)
    assert graphs() == cost


def test_a_compiled_model_filled_again_in_place_compiles_once_more_and_never_after(saved, start_held):
    """Dynamo's guards see another class in flight, before any code of ours: it compiles, and is right."""
    model, _, path = saved(Plain)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=False):
        expected = compiled(X)
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
        loading = start_held(model, path)
        assert torch.equal(compiled(X), expected)
        loading.wait(60)
        assert graphs()[0] == 2
    with torch.no_grad():
        assert torch.equal(compiled(X), expected)
    assert graphs()[0] == 2


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_failed_read_reaches_the_caller_of_a_compiled_model_as_what_it_is(fullgraph, at, saved, start_held):
    loaded, model, path = saved(Plain)
    loading = start_held(model, path, fail={at: OSError(5, "broken")})
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    for _ in range(2):
        with pytest.raises(SourceError, match="broken") as caught:
            compiled(X)
        assert caught.value.errno == 5
        assert caught.value.url.endswith("model.safetensors")
        assert caught.value.nbytes
    with pytest.raises(SourceError, match="broken"):
        loading.wait(60)
    with pytest.raises(SourceError, match="broken"):
        model(X)
    start_held(model, path)
    assert torch.equal(compiled(X), loaded(X))


def test_a_missing_file_is_one_to_the_caller_of_a_compiled_model_too(saved, start_held):
    _, model, path = saved(Plain)
    start_held(model, path, fail={0: FileNotFoundError(2, "gone", "there")})
    with pytest.raises(OSError, match="gone"):
        torch.compile(model, backend="eager")(X)


def test_a_cancelled_load_reaches_the_caller_of_a_compiled_model(saved, start_held):
    _, model, path = saved(Plain)
    start_held(model, path).cancel()
    with pytest.raises(StreamClosedError):
        torch.compile(model, backend="eager")(X)
