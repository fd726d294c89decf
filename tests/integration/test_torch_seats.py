"""What does not fit is refused before anything is touched, in one message that names all of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import streamload
from streamload.errors import DeviceError, StreamClosedError
from streamload.torch import _file, _seats, load_model, save_file, stream_module
from streamload.torch._submit import choose_engine


@pytest.fixture
def fill(tmp_path):
    """A function that writes tensors to a file and fills a module from it."""

    def run(module, tensors, *, strict=True, device="cpu"):
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        with streamload.open(path) as checkpoint:
            loading = stream_module(module, checkpoint, device, strict=strict)
        loading.wait(60)
        return loading

    return run


def linear(device="meta", dtype=torch.float32):
    return nn.Linear(2, 3, device=device, dtype=dtype)


WEIGHTS = {"weight": torch.arange(6.0).view(3, 2), "bias": torch.arange(3.0)}


def test_missing_and_unexpected_names_are_told_with_the_nearest(fill):
    module = linear()
    with pytest.raises(RuntimeError) as caught:
        fill(module, {"weights": WEIGHTS["weight"], "bias": WEIGHTS["bias"]})
    assert str(caught.value).splitlines() == [
        "Error(s) in loading state_dict for Linear:",
        '\tMissing key(s) in state_dict: "weight".',
        '\tUnexpected key(s) in state_dict: "weights".',
        '\tNearest to "weight" in the file: "weights".',
    ]
    assert module.weight.is_meta
    assert module.bias.is_meta


def test_looking_for_the_nearest_names_compares_few(monkeypatch):
    compared = []
    real = _seats.get_close_matches

    def count(name, known, n):
        compared.append(len(known))
        return real(name, known, n)

    monkeypatch.setattr(_seats, "get_close_matches", count)
    missing = [f"model.layers.{number}.attention.weight" for number in range(3000)]
    unexpected = [f"layers.{number}.attention.weight" for number in range(3000)] + ["x" * 100_000]
    errors = _seats._name_errors(_seats.Seating([], [], missing, unexpected, []))
    assert 'Nearest to "model.layers.7.attention.weight" in the file: "layers.7.attention.weight".' in errors
    assert len(compared) == 8
    assert max(compared) <= 64


def test_not_strict_tells_names_and_leaves_what_is_missing(fill):
    module = linear()
    loading = fill(module, {"weight": WEIGHTS["weight"], "other": torch.ones(1)}, strict=False)
    assert loading.missing_keys == ["bias"]
    assert loading.unexpected_keys == ["other"]
    assert module.bias.is_meta
    assert torch.equal(module.weight, WEIGHTS["weight"])
    assert loading.stats().bytes_read == WEIGHTS["weight"].nbytes


def test_everything_that_does_not_fit_is_in_one_message(fill):
    module = nn.Module()
    module.a = nn.Parameter(torch.zeros(2))
    module.b = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    module.c = nn.Parameter(torch.zeros(4, 2).T)
    tensors = {"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(2, 4)}
    with pytest.raises(RuntimeError) as caught:
        fill(module, tensors, strict=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("\tsize mismatch for a: copying a param with shape torch.Size([3]) from checkpoint")
    assert lines[2].startswith("\tdtype mismatch for b: the file has F32 (torch.float32), the tensor is torch.float64")
    assert lines[3].startswith("\tlayout mismatch for c")


def test_shapes_of_meta_tensors_are_checked_and_dtypes_taken_over(fill):
    module = linear(dtype=torch.float64)
    fill(module, {name: tensor.to(torch.bfloat16) for name, tensor in WEIGHTS.items()})
    assert module.weight.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        fill(linear(), {"weight": WEIGHTS["weight"], "bias": torch.zeros(4)})


def test_integer_weights_of_meta_parameters_need_no_gradient(fill):
    module = linear()
    fill(module, {"weight": WEIGHTS["weight"].to(torch.int8), "bias": WEIGHTS["bias"]})
    assert module.weight.dtype == torch.int8
    assert not module.weight.requires_grad
    assert module.bias.requires_grad


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("inv_freq", torch.zeros(2), persistent=False)


def test_buffers_that_no_file_holds_must_be_real(fill):
    with torch.device("meta"):
        module = nn.Sequential(Rotary())
    with pytest.raises(RuntimeError, match=r'no checkpoint holds: "0\.inv_freq"; build the module with real buffers'):
        fill(module, {"0.weight": torch.ones(2)}, strict=False)
    module[0].inv_freq = torch.ones(2)
    fill(module, {"0.weight": torch.ones(2)})


def test_batch_norms_counter_may_be_missing_as_in_load_state_dict(fill):
    tensors = {name: torch.ones(4) for name in ("weight", "bias", "running_mean", "running_var")}
    module = nn.BatchNorm1d(4, device="meta")
    fill(module, tensors)
    usual = nn.BatchNorm1d(4)
    usual.load_state_dict(tensors)
    assert module.num_batches_tracked.equal(usual.num_batches_tracked)
    assert module.num_batches_tracked.device.type == "cpu"


def test_modules_shared_under_two_names_are_filled_once(fill):
    shared = linear()
    module = nn.ModuleDict({"a": shared, "b": shared})
    fill(module, {f"a.{name}": tensor for name, tensor in WEIGHTS.items()})
    assert module["a"].weight is module["b"].weight
    assert torch.equal(module["b"].weight, WEIGHTS["weight"])


def test_views_that_overlap_in_memory_are_refused(fill):
    memory = torch.zeros(8)
    module = nn.Module()
    module.a, module.b = nn.Parameter(memory[:6]), nn.Parameter(memory[2:])
    with pytest.raises(ValueError, match="two copies write"):
        fill(module, {"a": torch.ones(6), "b": torch.ones(6)})


class Renaming(nn.Linear):
    def _load_from_state_dict(self, state_dict, prefix, *rest):  # noqa: ANN002  # torch's signature
        state_dict[prefix + "weight"] = state_dict.pop(prefix + "w")


class Transposing(nn.Linear):
    def __init__(self, size_in, size_out, device):
        super().__init__(size_in, size_out, device=device)
        self.register_load_state_dict_pre_hook(lambda *_: None)


@pytest.mark.parametrize("kind", [Renaming, Transposing])
def test_a_module_that_loads_itself_is_refused_by_name(kind, fill):
    module = nn.Sequential(kind(2, 3, device="meta"))
    with pytest.raises(TypeError, match=rf"'0' \({kind.__name__}\) changes its state dict.*use load_model"):
        fill(module, {"0.weight": WEIGHTS["weight"], "0.bias": WEIGHTS["bias"]})


def test_torchs_own_compatibility_hooks_are_no_obstacle(fill):
    usual = nn.utils.parametrizations.weight_norm(linear("cpu"))
    module = nn.utils.parametrizations.weight_norm(linear("cpu")).to("meta")
    fill(module, usual.state_dict())
    assert torch.equal(module(torch.ones(2)), usual(torch.ones(2)))


def test_torchscript_is_refused(fill):
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        module = torch.jit.script(linear("cpu"))
    with pytest.raises(TypeError, match="TorchScript"):
        fill(module, WEIGHTS)


def test_lazy_parameters_are_refused(fill):
    with pytest.raises(RuntimeError, match="weight has no shape yet"):
        fill(nn.LazyLinear(3), WEIGHTS)


def test_a_closed_checkpoint_is_refused(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    checkpoint = streamload.open(tmp_path / "model.safetensors")
    checkpoint.close()
    with pytest.raises(StreamClosedError):
        stream_module(linear(), checkpoint, "cpu")


def test_devices_that_are_not_there_are_refused(fill):
    with pytest.raises(ValueError, match="meta"):
        fill(linear(), WEIGHTS, device="meta")
    with pytest.raises(ValueError, match="nonsense"):
        fill(linear(), WEIGHTS, device="nonsense")
    with pytest.raises(DeviceError):
        fill(linear(), WEIGHTS, device="cuda:99")


def test_options_and_engine_are_not_mixed(tmp_path, slow_engine):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    with (
        streamload.open(tmp_path / "model.safetensors") as checkpoint,
        pytest.raises(ValueError, match="options or an engine"),
    ):
        stream_module(linear(), checkpoint, "cpu", options=streamload.StreamOptions(), engine=slow_engine)


def test_an_engine_of_another_device_is_refused(slow_engine):
    with pytest.raises(ValueError, match="copies to host, not to cuda:0"):
        choose_engine(torch.device("cuda", 0), None, slow_engine)
    assert choose_engine(torch.device("cpu"), None, slow_engine) is slow_engine


class Aliased(nn.Module):
    """A weight, and something else over its memory."""

    def __init__(self, alias: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        if alias == "buffer":
            self.register_buffer("row", self.weight.data[1], persistent=False)
        elif alias == "parameter":
            self.twin = nn.Parameter(self.weight.data)
        else:
            memory = torch.zeros(24)
            self.weight = nn.Parameter(memory[:12].view(4, 3))
            self.register_buffer("other", memory[12:], persistent=False)


@pytest.mark.parametrize("alias", ["buffer", "parameter"])
def test_a_tensor_over_a_weights_memory_is_refused(alias, tmp_path):
    save_file({"weight": torch.ones(4, 3)}, tmp_path / "m.safetensors")
    module = Aliased(alias)
    refused = pytest.raises(RuntimeError, match="lies over the memory of weight")
    with streamload.open(tmp_path / "m.safetensors") as checkpoint, refused:
        stream_module(module, checkpoint, "cpu", strict=False)
    assert type(module.weight) is nn.Parameter


def test_tensors_side_by_side_in_one_storage_are_no_aliases(tmp_path):
    save_file({"weight": torch.ones(4, 3)}, tmp_path / "m.safetensors")
    module = Aliased("none")
    with streamload.open(tmp_path / "m.safetensors") as checkpoint:
        stream_module(module, checkpoint, "cpu").wait(30)
    assert torch.equal(module.weight, torch.ones(4, 3))
    assert torch.equal(module.other, torch.zeros(12))


class TestLoadModel:
    """`load_model` gives what safetensors' gives: results, ties and errors."""

    @pytest.fixture(params=["streamload", "safetensors"])
    def load(self, request):
        import safetensors.torch

        return load_model if request.param == "streamload" else safetensors.torch.load_model

    def test_fills_a_model_with_ties(self, load, build, reference, model_path):
        model = build()
        assert load(model, model_path) == (set(), [])
        for name, tensor in reference.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
        assert model.head.weight is model.embed.weight

    def test_tells_missing_and_unexpected_names(self, load, tmp_path):
        save_file({"weight": WEIGHTS["weight"], "x": torch.ones(1)}, tmp_path / "m.safetensors")
        assert load(linear("cpu"), tmp_path / "m.safetensors", strict=False) == ({"bias"}, ["x"])
        with pytest.raises(RuntimeError) as caught:
            load(linear("cpu"), tmp_path / "m.safetensors")
        assert str(caught.value) == (
            "Error(s) in loading state_dict for Linear:\n"
            '    Missing key(s) in state_dict: "bias"\n'
            '    Unexpected key(s) in state_dict: "x"'
        )

    def test_both_names_of_a_tie_are_one_too_many(self, load, build, tmp_path):
        state = {name: tensor.clone() for name, tensor in build().state_dict().items()}
        save_file(state, tmp_path / "m.safetensors")
        assert load(build(), tmp_path / "m.safetensors", strict=False) == (set(), ["head.weight"])

    def test_a_tie_of_which_the_file_has_nothing_is_missing_once(self, load, build, tmp_path):
        state = {name: tensor.clone() for name, tensor in build().state_dict().items()}
        del state["head.weight"], state["embed.weight"]
        save_file(state, tmp_path / "m.safetensors")
        assert load(build(), tmp_path / "m.safetensors", strict=False) == ({"embed.weight"}, [])

    def test_a_shape_that_differs_is_told(self, load, tmp_path):
        save_file({"weight": torch.ones(3, 4), "bias": torch.ones(4)}, tmp_path / "m.safetensors")
        with pytest.raises(RuntimeError, match="size mismatch for weight: copying a param with shape"):
            load(linear("cpu"), tmp_path / "m.safetensors")

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_the_model_keeps_its_dtype(self, load, dtype, tmp_path):
        save_file(WEIGHTS, tmp_path / "m.safetensors")
        model = linear("cpu").to(dtype)
        assert load(model, tmp_path / "m.safetensors") == (set(), [])
        assert torch.equal(model.weight, WEIGHTS["weight"].to(dtype))

    def test_a_module_that_loads_itself_does_so(self, load, tmp_path):
        class Doubling(nn.Linear):
            def _load_from_state_dict(self, state, prefix, *rest: object):
                state[prefix + "weight"] = state[prefix + "weight"] * 2
                super()._load_from_state_dict(state, prefix, *rest)

        save_file(WEIGHTS, tmp_path / "m.safetensors")
        model = Doubling(2, 3)
        assert load(model, tmp_path / "m.safetensors") == (set(), [])
        assert torch.equal(model.weight, WEIGHTS["weight"] * 2)

    def test_a_norm_without_its_counter_lacks_nothing(self, load, tmp_path):
        state = {name: tensor + 1 for name, tensor in nn.BatchNorm1d(4).state_dict().items()}
        del state["num_batches_tracked"]
        save_file(state, tmp_path / "m.safetensors")
        model = nn.BatchNorm1d(4)
        assert load(model, tmp_path / "m.safetensors") == (set(), [])
        assert model.running_var.eq(2).all()
        assert model.num_batches_tracked == 0

    def test_views_over_one_memory_are_all_filled(self, load, tmp_path):
        model = Aliased("parameter")
        save_file({"weight": torch.ones(4, 3), "twin": torch.full((4, 3), 2.0)}, tmp_path / "m.safetensors")
        load(model, tmp_path / "m.safetensors", strict=False)
        assert model.weight.eq(2).all()


def test_a_plain_model_is_filled_where_it_is(build, reference, model_path, monkeypatch):
    monkeypatch.setattr(_file, "load_file", None)
    model = build()
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    assert load_model(model, model_path) == (set(), [])
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()]
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_path_or_a_dict_where_something_else_is_due_is_named():
    with pytest.raises(TypeError, match=r"expected an open Checkpoint, got 'ck'; open a path with streamload.open"):
        stream_module(linear("meta"), "ck", "cpu")
    with pytest.raises(TypeError, match="expected an open Checkpoint"):
        streamload.torch.stream("ck", "cpu")
    with pytest.raises(TypeError, match="options must be StreamOptions"):
        streamload.torch.load_file("ck", options={"read_threads": 1})


def test_a_parameter_that_a_module_keeps_in_its_own_dict_is_replaced_there_too(tmp_path):
    class Caching(torch.nn.Linear):
        """Keep the weight where attributes are found without asking `__getattr__`."""

        def __init__(self, device):
            super().__init__(8, 8, bias=False, device=device)
            self.__dict__["weight"] = self._parameters["weight"]

    reference = Caching("cpu")
    save_file({"weight": reference.weight.detach()}, tmp_path / "model.safetensors")
    module = Caching("meta")
    with streamload.open(tmp_path) as checkpoint:
        stream_module(module, checkpoint, "cpu").wait(timeout=60)
    assert torch.equal(module.weight, reference.weight)
