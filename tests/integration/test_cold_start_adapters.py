"""Adapters, merging and hooks of accelerate on a model whose base is still arriving: what stock gives, or an error."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from peft import LoraConfig, PeftModel, get_peft_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nan_memory"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning:peft"),  # and sets it right itself
]

ADAPTERS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pissa": {"init_lora_weights": "pissa"},  # reads the base's weights, and writes them
}


def with_adapter(model, kind, targets):
    """Put an adapter on a model; its B is not zero, so that it counts."""
    torch.manual_seed(1)
    chosen = {"init_lora_weights": False, **ADAPTERS[kind]}
    return get_peft_model(model, LoraConfig(r=4, target_modules=targets, **chosen)).eval()


TARGETS = {"llama-tied": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "t5": ["q", "v"]}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "t5"])
def test_an_adapter_added_in_flight(name, kind, models, start_held, assert_same):
    model, inputs = models.empty(name), models.inputs(name)
    loading = start_held(model, models.directory(name))
    adapted = with_adapter(model, kind, TARGETS[name])
    with torch.no_grad():
        got = adapted(**inputs)
        loading.wait(60)
        expected = with_adapter(models.stock(name), kind, TARGETS[name])(**inputs)
        assert_same(got, expected)
        assert_same(adapted(**inputs), expected)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_an_adapter_merged_in_flight(name, kind, models, start_held, assert_same, leftovers):
    model, inputs = models.empty(name), models.inputs(name)
    loading = start_held(model, models.directory(name))
    merged = with_adapter(model, kind, TARGETS[name]).merge_and_unload()
    with torch.no_grad():
        got = merged(**inputs)
        loading.wait(60)
        expected = with_adapter(models.stock(name), kind, TARGETS[name]).merge_and_unload()
        assert_same(got, expected(**inputs))
    assert_same(dict(merged.state_dict()), dict(expected.state_dict()))
    assert not leftovers(merged)


def test_an_adapter_merged_and_taken_off_in_flight(models, start_held, assert_same):
    model, inputs = models.empty("llama"), models.inputs("llama")
    loading = start_held(model, models.directory("llama"))
    adapted, usual = with_adapter(model, "lora", TARGETS["llama-tied"]), models.stock("llama")
    adapted.merge_adapter()
    adapted.unmerge_adapter()
    with torch.no_grad(), adapted.disable_adapter():
        got = adapted(**inputs)
    loading.wait(60)
    usual = with_adapter(usual, "lora", TARGETS["llama-tied"])
    usual.merge_adapter()
    usual.unmerge_adapter()
    with torch.no_grad(), usual.disable_adapter():
        assert_same(got, usual(**inputs))


def test_an_adapter_loaded_from_its_file_in_flight(models, start_held, assert_same, tmp_path):
    with_adapter(models.stock("llama"), "lora", TARGETS["llama-tied"]).save_pretrained(tmp_path)
    model, inputs = models.empty("llama"), models.inputs("llama")
    loading = start_held(model, models.directory("llama"))
    adapted = PeftModel.from_pretrained(model, tmp_path).eval()
    with torch.no_grad():
        got = adapted(**inputs)
        loading.wait(60)
        assert_same(got, PeftModel.from_pretrained(models.stock("llama"), tmp_path).eval()(**inputs))


def test_training_an_adapter_in_flight(models, start_held, assert_same):
    def train(model):
        adapted = with_adapter(model, "lora", TARGETS["llama-tied"])
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.1)
        adapted(**inputs).logits.square().mean().backward()
        optimizer.step()
        return trained

    model, inputs = models.empty("llama"), models.inputs("llama")
    loading = start_held(model, models.directory("llama"))
    got = train(model)
    loading.wait(60)
    assert_same(got, train(models.stock("llama")))


HOOKS = {
    "align": lambda model: add_hook_to_module(model, AlignDevicesHook(execution_device="cpu", io_same_device=True)),
    "align places submodules": lambda model: add_hook_to_module(
        model, AlignDevicesHook(execution_device="cpu", place_submodules=True)
    ),
    "align each layer": lambda model: [
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
        for layer in model.model.layers
    ],
    "offload": lambda model: [
        add_hook_to_module(one, AlignDevicesHook(execution_device="cpu", offload=True))
        for one in model.modules()
        if one._parameters
    ],
    "dispatch_model": lambda model: dispatch_model(model, {"": "cpu"}, force_hooks=True),
    "cpu_offload": lambda model: cpu_offload(model, "cpu"),
}


@pytest.mark.parametrize("put", HOOKS.values(), ids=HOOKS.keys())
@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_accelerate_hooks_put_on_in_flight(name, put, models, start_held, assert_same):
    model, inputs = models.empty(name), models.inputs(name)
    loading = start_held(model, models.directory(name))
    put(model)
    with torch.no_grad():
        got = model(**inputs)
        loading.wait(60)
        again = model(**inputs)
        expected = models.stock(name)
        put(expected)
        expected = expected(**inputs)
    assert_same(got, expected)
    assert_same(again, expected)


def test_accelerate_hooks_put_on_before(models, start_held, assert_same, leftovers):
    model, inputs = models.empty("llama"), models.inputs("llama")
    HOOKS["align each layer"](model)
    loading = start_held(model, models.directory("llama"))
    with torch.no_grad():
        got = model(**inputs)
        loading.wait(60)
        assert_same(got, models.stock("llama")(**inputs))
    remove_hook_from_module(model, recurse=True)  # leaves the layers' own forward as an attribute of theirs
    assert leftovers(model) == ["hooks of model.layers.0", "hooks of model.layers.1"]


def test_a_copy_made_in_flight_is_a_model_of_its_own(models, start_held, assert_same, leftovers):
    model, inputs = models.empty("llama-tied"), models.inputs("llama-tied")
    loading = start_held(model, models.directory("llama-tied"))
    twin = copy.deepcopy(model)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    loading.wait(60)
    with torch.no_grad():
        expected = models.stock("llama-tied")(**inputs)
        assert_same(twin(**inputs), expected)
        assert_same(model(**inputs), expected)
    assert not leftovers(twin)


def test_saved_in_flight_it_is_the_same_checkpoint(models, start_held, assert_same, tmp_path):
    model = models.empty("llama-tied")
    start_held(model, models.directory("llama-tied"))
    model.save_pretrained(tmp_path)
    saved = type(model).from_pretrained(tmp_path)
    assert_same(dict(saved.state_dict()), dict(models.stock("llama-tied").state_dict()))
