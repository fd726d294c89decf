"""`load_into` and `load_with`: what plain servers load is what `load_state_dict` gives, and computes as it arrives."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import streamload
from streamload.torch import load_into

DEBUG = streamload.StreamOptions(debug=True)
IDS = torch.arange(24).view(2, 12)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_path_through_attention():
    """The fused one wants tensors without a gate, and rounds otherwise."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


class Turning(nn.Module):
    """A linear layer, a buffer that is not saved, and one that is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("turn", torch.arange(8.0), persistent=False)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, value):
        return self.linear(value) * self.turn * self.scale


def on_meta(kind, *given: object):
    with torch.device("meta"):
        return kind(*given)


def by_state_dict(module):
    """What to give `load_with`: torch's own way."""
    return lambda weights: module.load_state_dict(weights, assign=True)


def assert_equal_state(got, expected):
    left, right = got.state_dict(), expected.state_dict()
    assert list(left) == list(right)
    for name, tensor in right.items():
        assert left[name].dtype == tensor.dtype
        assert torch.equal(left[name], tensor), name


@pytest.fixture
def turning(tmp_path):
    module = Turning()
    path = tmp_path / "turning.safetensors"
    save_file(module.state_dict(), path)
    return module, path


def test_module_on_meta_computes_while_it_arrives(build, reference, model_path, slow_engine):
    module = build("meta")
    loading = load_into(module, model_path, device="cpu", engine=slow_engine)
    assert not loading.done
    with torch.no_grad():
        assert torch.equal(module(IDS), reference(IDS))
    loading.wait(60)
    assert module.head.weight is module.embed.weight
    stock = build()
    load_model(stock, model_path)
    assert_equal_state(module, stock)


def test_debug_mode_gives_the_same(build, reference, model_path):
    module = build("meta")
    load_into(module, model_path, device="cpu", options=DEBUG)
    with torch.no_grad():
        assert torch.equal(module(IDS), reference(IDS))
    assert int(module.norm.num_batches_tracked) == int(reference.norm.num_batches_tracked)


def test_real_tensors_are_filled_where_they_are(turning):
    expected, path = turning
    module = Turning()
    weight = module.linear.weight
    load_into(module, path, device="cpu").wait(60)
    assert module.linear.weight is weight
    assert_equal_state(module, expected)


def test_paths_are_closed_and_checkpoints_stay_open(turning, open_descriptors):
    _, path = turning
    before = open_descriptors()
    load_into(Turning(), path, device="cpu").wait(60)
    assert open_descriptors() == before
    with streamload.open(path) as checkpoint:
        load_into(Turning(), checkpoint, device="cpu").wait(60)
        streamload.load_with(module := Turning(), checkpoint, by_state_dict(module), device="cpu").wait(60)
        assert checkpoint.shards


@pytest.mark.parametrize("how", ["load_into", "load_with"])
def test_tied_llama_stays_tied(models, assert_same, how):
    stock = models.stock("llama-tied")
    module = models.empty("llama-tied")
    directory = models.directory("llama-tied")

    def load(weights):
        assert "lm_head.weight" not in weights
        module.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, assign=True)

    if how == "load_into":
        loading = load_into(module, directory, device="cpu", options=DEBUG)
    else:
        loading = streamload.load_with(module, directory, load, device="cpu", options=DEBUG)
        assert loading.read_early == ()
    with torch.no_grad():
        assert_same(module(**models.inputs("llama-tied")), stock(**models.inputs("llama-tied")))
    loading.wait(60)
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert_equal_state(module, stock)


def test_ties_of_which_the_file_has_both_names_count_as_in_torch(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

    path = tmp_path / "both.safetensors"
    save_file({"first.weight": torch.zeros(4, 4), "second.weight": torch.ones(4, 4)}, path)
    stock = Tied()
    stock.load_state_dict(load_file(path))
    module = on_meta(Tied)
    streamload.load_with(module, path, by_state_dict(module), device="cpu").wait(60)
    assert module.second.weight is module.first.weight
    assert_equal_state(module, stock)


def test_unsaved_buffers_on_meta_are_named(turning):
    _, path = turning
    with pytest.raises(RuntimeError, match='meta device that no checkpoint holds: "turn"'):
        load_into(on_meta(Turning), path, device="cpu")
    module = on_meta(Turning)
    with pytest.raises(RuntimeError, match="meta device that were not loaded: turn;"):
        streamload.load_with(module, path, by_state_dict(module), device="cpu")


def test_batch_norm_counters_are_there_whether_saved_or_not(tmp_path):
    stock = nn.BatchNorm1d(4)
    stock(torch.rand(3, 4))
    path = tmp_path / "norm.safetensors"
    save_file(stock.state_dict(), path)
    module, other = on_meta(nn.BatchNorm1d, 4), on_meta(nn.BatchNorm1d, 4)
    load_into(module, path, device="cpu").wait(60)
    streamload.load_with(other, path, by_state_dict(other), device="cpu").wait(60)
    assert_equal_state(module, stock)
    assert_equal_state(other, stock)
    save_file({name: each for name, each in stock.state_dict().items() if "batches" not in name}, path)
    module, other = on_meta(nn.BatchNorm1d, 4), on_meta(nn.BatchNorm1d, 4)
    load_into(module, path, device="cpu").wait(60)
    streamload.load_with(other, path, by_state_dict(other), device="cpu").wait(60)
    for loaded in (module, other):
        assert int(loaded.num_batches_tracked) == 0
        loaded(torch.rand(3, 4))


def test_missing_and_unexpected_names_are_refused(turning, tmp_path):
    expected, _ = turning
    other = tmp_path / "other.safetensors"
    save_file({"linear.weight": expected.linear.weight.detach(), "more": torch.zeros(2)}, other)
    module = Turning()
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"linear\.bias".*Unexpected key.*"more"'):
        load_into(module, other, device="cpu")
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"linear\.bias".*Unexpected key.*"more"'):
        streamload.load_with(module, other, by_state_dict(module), device="cpu")
    assert type(module.linear.weight.data) is torch.Tensor  # as it was
    loading = load_into(module, other, device="cpu", strict=False)
    assert sorted(loading.missing_keys) == ["linear.bias", "scale"]
    assert loading.unexpected_keys == ["more"]


def test_names_and_shapes_may_change_on_the_way(turning, tmp_path):
    expected, _ = turning
    path = tmp_path / "parts.safetensors"
    top, bottom = expected.linear.weight.detach().split([3, 5])
    save_file(
        {
            "old.top": top.clone(),
            "old.bottom_t": bottom.t().contiguous(),
            "old.bias": expected.linear.bias.detach().double(),
        },
        path,
    )
    module = Turning()

    def load(weights):
        weight = torch.cat([weights["old.top"], weights["old.bottom_t"].t()])
        named = {"linear.weight": weight, "linear.bias": weights["old.bias"].to(torch.float32)}
        module.load_state_dict(named, assign=True, strict=False)

    loading = streamload.load_with(module, path, load, device="cpu", options=DEBUG)
    value = torch.rand(2, 8)
    with torch.no_grad():
        assert torch.equal(module(value), expected(value))
    loading.wait(60)
    assert loading.read_early == ()
    assert type(module.linear.weight) is nn.Parameter
    assert module.linear.weight.requires_grad
    assert_equal_state(module, expected)


def test_what_is_copied_instead_of_set_is_read_at_once(turning):
    expected, path = turning
    module = Turning()
    loading = streamload.load_with(module, path, module.load_state_dict, device="cpu")
    assert sorted(loading.read_early) == ["linear.bias", "linear.weight", "scale"]
    assert loading.done
    assert_equal_state(module, expected)


def test_an_error_of_the_loading_function_is_raised_and_nothing_stays_open(turning, open_descriptors):
    _, path = turning
    before = open_descriptors()

    def load(weights):
        raise KeyError(sorted(weights)[0])

    with pytest.raises(KeyError, match=r"linear\.bias"):
        streamload.load_with(Turning(), path, load, device="cpu")
    assert open_descriptors() == before


def test_a_load_that_cannot_start_leaves_the_module_as_it_was(turning, tmp_path):
    _, path = turning
    module = Turning()
    before = dict(module.state_dict(keep_vars=True))

    def load(weights):
        module.load_state_dict(weights, assign=True)
        path.unlink()

    with pytest.raises((FileNotFoundError, streamload.ChangedError)):
        streamload.load_with(module, path, load, device="cpu")
    after = module.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is tensor for name, tensor in before.items())
