"""Lazy tensors record without reading, and are worth what the same operations on real ones are."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy
import pytest
import torch
from torch import nn

import streamload
from streamload._lazy import LazyTensor, lazy_state_dict
from streamload.errors import ChangedError, ShortReadError, StreamClosedError
from streamload.torch import save_file

CONTENT = {
    "a": torch.arange(24.0).view(4, 6),
    "b": torch.arange(100.0, 124.0).view(4, 6),
    "whole": torch.arange(12).view(3, 4),
    "scalar": torch.tensor(7.0),
    "none": torch.empty(0, 6),
    "eight": torch.arange(16, dtype=torch.float32).to(torch.float8_e4m3fn),
    "complex": torch.complex(torch.arange(4.0), torch.arange(4.0) + 1),
}


@pytest.fixture
def path(tmp_path):
    save_file(CONTENT, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def checkpoint(path):
    with streamload.open(path) as checkpoint:
        yield checkpoint


@pytest.fixture
def lazy(checkpoint):
    return lazy_state_dict(checkpoint)


def read(lazy):
    return next(iter(lazy.values()))._source.names_read


def same(one, other):
    one = one.value() if isinstance(one, LazyTensor) else one
    assert type(one) is torch.Tensor
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.stride() == other.stride() or one.numel() < 2
    assert torch.equal(one.resolve_conj(), other.resolve_conj())


RECORDED = {
    "view": lambda t: t["a"].view(2, 12),
    "reshape": lambda t: t["a"].t().reshape(3, 8),
    "transpose": lambda t: t["a"].transpose(0, 1),
    "slice": lambda t: t["a"][1:3, ::2],
    "select": lambda t: t["a"][2],
    "chunk": lambda t: t["a"].chunk(2, dim=1)[1],
    "split": lambda t: t["a"].split([1, 3])[1],
    "unbind": lambda t: t["a"].unbind()[3],
    "expand": lambda t: t["a"][:1].expand(5, 6),
    "flip": lambda t: t["a"].flip(0),
    "cat": lambda t: torch.cat([t["a"], t["b"], t["a"]]),
    "stack": lambda t: torch.stack([t["a"], t["b"]], dim=1),
    "stack of expands": lambda t: torch.stack([t["a"][:1].expand(4, 6), t["b"]]),
    "cast": lambda t: t["a"].to(torch.bfloat16),
    "cast twice": lambda t: t["a"].to(torch.bfloat16).to(torch.float32),
    "nothing to cast": lambda t: t["a"].to(torch.float32),
    "copy": lambda t: t["a"].t().contiguous(),
    "sum": lambda t: t["a"].sum(),
    "arithmetic": lambda t: (t["a"] * 2 + t["b"]) / 3,
    "other dtype": lambda t: t["a"].view(torch.uint8),
    "scalar": lambda t: t["scalar"] * 2,
    "scalar view": lambda t: t["scalar"].view(1, 1),
    "empty": lambda t: t["none"].t(),
    "cat with empty": lambda t: torch.cat([t["none"], t["a"]]),
    "max": lambda t: t["a"].max(dim=1)[1],
    "softmax": lambda t: t["a"].softmax(-1),
    "float8": lambda t: t["eight"].to(torch.float32),
    "real": lambda t: t["complex"].abs(),
    "matmul": lambda t: t["a"] @ t["b"].t(),
}


@pytest.mark.parametrize("work", RECORDED.values(), ids=RECORDED.keys())
def test_recorded_work_reads_nothing_and_comes_to_the_same(lazy, work):
    made = work(lazy)
    assert isinstance(made, LazyTensor)
    assert not read(lazy)
    same(made, work(CONTENT))


AT_ONCE = {
    "bool index": lambda t: t["a"][t["a"] > 5],
    "index": lambda t: t["a"][torch.tensor([2, 0])],
    "nonzero": lambda t: t["whole"].nonzero(),
    "with a real one": lambda t: t["a"] + torch.ones(6),
    "cat with a real one": lambda t: torch.cat([t["a"], torch.zeros(1, 6)]),
    "conj": lambda t: t["complex"].conj(),
    "unique": lambda t: t["whole"].unique(),
}


@pytest.mark.parametrize("work", AT_ONCE.values(), ids=AT_ONCE.keys())
def test_what_cannot_be_recorded_is_done_at_once(lazy, work):
    same(work(lazy), work(CONTENT))


def test_values_are_values(lazy):
    assert lazy["scalar"].item() == 7.0
    assert float(lazy["a"][1, 1]) == 7.0
    assert torch.equal(lazy["a"], CONTENT["a"])
    assert not torch.equal(lazy["a"], lazy["b"])
    assert torch.allclose(lazy["a"], lazy["a"] + 1e-9)
    assert bool((lazy["a"] < 1000).all())
    assert lazy["whole"].tolist() == CONTENT["whole"].tolist()
    assert (lazy["whole"].numpy() == CONTENT["whole"].numpy()).all()


@pytest.mark.parametrize(
    "make",
    [
        torch.empty_like,
        torch.zeros_like,
        torch.rand_like,
        lambda t: torch.full_like(t, 3),
        lambda t: t.new_zeros(2, 3),
        lambda t: t.new_tensor([1.0]),
    ],
)
def test_what_only_looks_like_it_is_real_and_reads_nothing(lazy, make):
    made = make(lazy["a"])
    assert type(made) is torch.Tensor
    assert made.device == torch.device("cpu")
    assert not read(lazy)


def test_on_meta_it_is_an_ordinary_tensor(lazy):
    made = lazy["a"].to("meta")
    assert type(made) is torch.Tensor
    assert made.is_meta
    assert torch.empty_like(lazy["a"], device="meta").is_meta
    assert not read(lazy)


def test_random_numbers_are_drawn_in_the_order_of_the_program(lazy):
    torch.manual_seed(3)
    first = torch.bernoulli(lazy["a"] / 30)
    second = torch.rand(3)
    torch.manual_seed(3)
    same(first, torch.bernoulli(CONTENT["a"] / 30))
    same(second, torch.rand(3))


def test_a_view_that_there_is_not_reads_nothing(lazy):
    for wrong in (lambda t: t.view(5), lambda t: t.t().view(24), lambda t: t.split([1, 2])):
        with pytest.raises(RuntimeError):
            wrong(lazy["a"])
    with pytest.raises(IndexError):
        lazy["a"].select(0, 9)
    assert not read(lazy)
    assert not lazy["a"].written


@pytest.mark.parametrize(
    "copy",
    [
        torch.clone,
        torch.as_tensor,
        lambda t: t.detach().cpu(),
        lambda t: torch.from_numpy(numpy.asarray(t)),
        lambda t: torch.tensor(t.tolist()),
        lambda t: torch.from_dlpack(t),
        lambda t: t.share_memory_(),
        lambda t: torch.stack(list(t)),
    ],
)
def test_ways_to_get_at_it(lazy, copy):
    same(copy(lazy["a"]), CONTENT["a"])


def test_a_module_of_them_is_cast_and_loaded_into(lazy):
    module = nn.Linear(6, 4, bias=False, device="meta")
    module.load_state_dict({"weight": lazy["a"]}, assign=True)
    assert not read(lazy)
    module.double()
    assert not read(lazy)
    same(module.weight.detach(), CONTENT["a"].double())
    real = nn.Linear(6, 4, bias=False)
    real.load_state_dict({"weight": lazy["b"]})
    same(real.weight.data, CONTENT["b"])


def test_a_tensor_of_another_kind_goes_first(lazy):
    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None) -> object:
            heard.append(func)
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

    heard: list[object] = []
    loud = torch.ones(6).as_subclass(Loud)
    heard.clear()
    assert (lazy["a"] + loud).sum() == CONTENT["a"].sum() + 24
    assert heard


def test_a_parameter_of_it_is_one(lazy):
    parameter = nn.Parameter(lazy["a"], requires_grad=False)
    assert isinstance(parameter, nn.Parameter)
    assert isinstance(parameter, LazyTensor)
    assert not parameter.requires_grad
    parameter.requires_grad_()
    assert parameter.requires_grad
    assert not read(lazy)


def test_gradients_flow_through_what_is_recorded(lazy):
    parameter = nn.Parameter(lazy["a"])
    (parameter * 2).sum().backward()
    same(parameter.grad.detach(), torch.full((4, 6), 2.0))


def test_a_copy_of_a_module_is_lazy_and_its_own(lazy):
    module = nn.Linear(6, 4, device="meta")
    module.weight = nn.Parameter(lazy["a"], requires_grad=False)
    module.weight.mark = "set by somebody"
    module.also = module.weight
    copied = copy.deepcopy(module)
    assert not read(lazy)
    assert isinstance(copied.weight, LazyTensor)
    assert isinstance(copied.weight, nn.Parameter)
    assert copied.also is copied.weight
    assert copied.weight.mark == "set by somebody"
    assert not copied.weight.requires_grad
    module.weight.data.zero_()
    same(copied.weight, CONTENT["a"])


def test_it_is_pickled_as_what_it_is_worth(lazy):
    parameter = pickle.loads(pickle.dumps(nn.Parameter(lazy["a"])))
    assert type(parameter) is nn.Parameter
    same(parameter.data, CONTENT["a"])
    same(pickle.loads(pickle.dumps(lazy["b"].t())), CONTENT["b"].t())


def test_a_long_chain_is_computed_without_recursion(lazy):
    made, real = lazy["a"], CONTENT["a"]
    for number in range(1500):
        made, real = (made.t(), real.t()) if number % 3 else (made + 1, real + 1)
    same(made, real)
    made = made.detach()
    made.add_(1)
    same(made, real + 1)


def test_a_graph_is_gone_with_its_tensors(checkpoint):
    lazy = lazy_state_dict(checkpoint)
    made = torch.cat([lazy["a"] * 2, lazy["b"]]).t()
    made.value()
    lazy["a"].add_(1)
    gone = [weakref.ref(each) for each in (made.node, lazy["a"].node, lazy["a"]._source, made.value())]
    gc.collect()
    gc.disable()
    try:
        del made, lazy
        assert not [ref() for ref in gone if ref() is not None]
    finally:
        gc.enable()


def test_small_requests_do_not_read_a_tensor_over_and_over(lazy):
    assert [lazy["a"][0, column].item() for column in range(6)] == list(range(6))
    assert len(read(lazy)) <= 2


def test_threads_that_ask_at_once_get_the_same(lazy):
    made = torch.cat([lazy["a"], lazy["b"]]) * 2
    start, found = threading.Barrier(8), []

    def ask():
        start.wait()
        found.append(made.value())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(each) for each in found} == {id(made.value())}
    assert sorted(read(lazy)) == ["a", "b"]


def test_a_closed_checkpoint_is_told(path):
    with streamload.open(path) as checkpoint:
        made = lazy_state_dict(checkpoint)["a"] + 1
    with pytest.raises(StreamClosedError):
        made.value()


def test_a_file_that_changed_is_told(path, lazy):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 8)
    with pytest.raises((ChangedError, ShortReadError)):
        lazy["a"].value()


def test_names_choose(checkpoint):
    assert list(lazy_state_dict(checkpoint, ["b", "a"])) == ["b", "a"]
    with pytest.raises(KeyError):
        lazy_state_dict(checkpoint, ["c"])


def test_its_repr_reads_nothing(lazy):
    assert repr(lazy["a"]) == "LazyTensor([4, 6], torch.float32, device='cpu')"
    assert not read(lazy)
