"""The tiny models load, load again to the same, and compute; the comparison is silent then, and speaks otherwise."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("transformers")

import torch
from torch import nn

from . import tiny, zoo
from .compare import differences, info_differences

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

KEYS = list if tiny.TRANSFORMERS_4 else set
NOTHING = {"missing_keys": KEYS(), "unexpected_keys": KEYS(), "mismatched_keys": KEYS(), "error_msgs": []}


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16], ids=["auto", "bfloat16"])
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_two_loads_are_equal(name, dtype, saved):
    kind, directory = saved(name)
    one, other = (kind.from_pretrained(directory, dtype=dtype, output_loading_info=True) for _ in range(2))
    assert differences(one[0], other[0]) == []
    assert info_differences(one[1], other[1]) == []
    assert info_differences(one[1], NOTHING) == []


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_a_load_is_what_was_saved_and_computes(name, saved):
    kind, directory = saved(name)
    model = kind.from_pretrained(directory, dtype="auto")
    built = zoo.build(name).state_dict()
    assert [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, built[key])] == []
    with torch.no_grad():
        output = model(**zoo.inputs(name, dtype=model.dtype)).to_tuple()
    assert all(part.isfinite().all() for part in output if isinstance(part, torch.Tensor))
    assert any(isinstance(part, torch.Tensor) and part.std() > 1e-3 for part in output)


@pytest.mark.parametrize("name", sorted(zoo.SHARDED))
def test_sharded_models_are_several_files(name, saved):
    assert len(list(saved(name)[1].glob("*.safetensors"))) > 1


def test_inputs_are_the_same_each_time():
    for name in zoo.ARCHITECTURES:
        one, other = zoo.inputs(name), zoo.inputs(name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def pair(saved):
    """Two equal models with tied weights: the second is for changing."""
    kind, directory = saved("llama_tied")
    model = kind.from_pretrained(directory, dtype="auto")
    return model, copy.deepcopy(model)


def test_where_a_model_came_from_is_no_difference(saved, tmp_path):
    kind, directory = saved("llava")
    (tmp_path / "elsewhere").symlink_to(directory)
    places = directory, tmp_path / "elsewhere"
    assert differences(*(kind.from_pretrained(place) for place in places)) == []


def flip_one_bit(model):
    bits = model.model.norm.weight.data.view(torch.uint8)
    bits[-1] ^= 1


def flip_the_sign_of_a_zero(model):
    model.model.rotary_emb.inv_freq[0] = -0.0


def untie(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def tie_by_memory_alone(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach())


def transpose_in_memory(model):
    weight = model.model.layers[1].mlp.up_proj.weight
    weight.data = weight.data.t().contiguous().t()


def freeze_one(model):
    model.model.norm.weight.requires_grad_(False)


def train_one(model):
    model.model.norm.train()


def widen_one(model):
    model.model.norm.weight.data = model.model.norm.weight.data.double()


def leave_one_on_meta(model):
    model.model.norm.weight = nn.Parameter(model.model.norm.weight.to("meta"))


class Arriving(nn.Parameter):
    """A parameter of a class of its own."""


def change_the_class_of_one(model):
    model.model.norm.weight = Arriving(model.model.norm.weight.detach())


def mark_one(model):
    model.model.norm.weight.mark = 1


def hook_one(model):
    model.model.norm.weight.register_hook(lambda gradient: gradient)


def hook_a_module(model):
    model.model.norm.register_forward_pre_hook(lambda module, arguments: None)


def shadow_forward(model):
    model.model.norm.forward = model.model.norm.forward


def move_one_to_the_end(model):
    layer = model.model.layers[0].mlp
    layer.up_proj = layer.__dict__["_modules"].pop("up_proj")


def persist_a_buffer(model):
    model.model.rotary_emb._non_persistent_buffers_set.clear()


def add_a_parameter(model):
    model.model.norm.bias = nn.Parameter(torch.zeros(32))


def change_a_setting(model):
    model.config.id2label[0] = "other"


def change_attention(model):
    model.config._attn_implementation = "eager"


def change_generation(model):
    model.generation_config.max_new_tokens = 5


def change_an_epsilon(model):
    model.model.norm.variance_epsilon = 1.0


def forget_what_is_tied(model):
    model.all_tied_weights_keys.clear()


def build_in_inference_mode(model):
    with torch.inference_mode():
        data = model.model.norm.weight.clone()
        model.model.norm.weight = nn.Parameter(data)


CHANGES = {
    flip_one_bit: ["model.norm.weight: 1 of 32 numbers, the first at 31"],
    flip_the_sign_of_a_zero: ["model.rotary_emb.inv_freq: 1 of 4 numbers, the first at 0: 0.0 against -0.0"],
    untie: ["ties: [('model.embed_tokens.weight', 'lm_head.weight')] against []"],
    tie_by_memory_alone: ["ties", "overlapping memory: [] against [("],
    transpose_in_memory: ["model.layers.1.mlp.up_proj.weight.stride: (32, 1) against (1, 64)"],
    freeze_one: ["model.norm.weight.requires_grad: True against False"],
    train_one: ["module 'model.norm'.training: False against True"],
    widen_one: ["model.norm.weight.dtype: torch.bfloat16 against torch.float64"],
    leave_one_on_meta: ["model.norm.weight.device: device(type='cpu') against device(type='meta')"],
    change_the_class_of_one: ["model.norm.weight.class", "model.norm.weight of the right model: its class is Arriving"],
    mark_one: ["model.norm.weight.attributes.mark: 'nothing' against 1"],
    hook_one: ["model.norm.weight.hooks: 0 against 1"],
    hook_a_module: ["module 'model.norm'._forward_pre_hooks: 0 against 1"],
    shadow_forward: ["module 'model.norm'.attributes: [] against ['forward']"],
    move_one_to_the_end: [
        "order of names of parameters, at 6: 'model.layers.0.mlp.up_proj.weight' against",
        "order of names of nothing",
        "order of names of state_dict",
        "order of names of modules",
    ],
    persist_a_buffer: ["names of persistent buffers", "names of non-persistent buffers", "names of state_dict"],
    add_a_parameter: ["names of parameters: [] against ['model.norm.bias']", "names of state_dict"],
    change_a_setting: ["config.id2label.0: 'LABEL_0' against 'other'"],
    change_attention: ["config._attn_implementation_internal: 'sdpa' against 'eager'"],
    change_generation: ["generation_config.max_new_tokens"],
    change_an_epsilon: ["module 'model.norm'.variance_epsilon: 1e-06 against 1.0"],
    forget_what_is_tied: ["module ''.all_tied_weights_keys.lm_head.weight: 'model.embed_tokens.weight' against"],
    build_in_inference_mode: ["model.norm.weight.is_inference: False against True"],
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_told_and_nothing_else(change, pair):
    left, right = pair
    if change is forget_what_is_tied and tiny.TRANSFORMERS_4:
        pytest.skip(f"transformers {tiny.VERSION} has no all_tied_weights_keys")
    left.model.rotary_emb.inv_freq[0] = 0.0
    right.model.rotary_emb.inv_freq[0] = 0.0
    assert differences(left, right) == []
    change(right)
    told, expected = differences(left, right), CHANGES[change]
    assert len(told) == len(expected), told
    assert all(line.startswith(start) for line, start in zip(told, expected, strict=True)), told


def test_nans_of_the_same_bits_are_equal(pair):
    for model in pair:
        model.model.norm.weight.data.fill_(float("nan"))
    assert differences(*pair) == []


def test_differences_of_a_loading_info_are_told():
    nothing = {"missing_keys": set(), "mismatched_keys": set()}
    one = {"missing_keys": {"a", "b"}, "mismatched_keys": {("c", (1,), (2,))}}
    assert info_differences(one, copy.deepcopy(one)) == []
    assert info_differences(one, nothing) == [
        """mismatched_keys: ["('c', (1,), (2,))"] against []""",
        """missing_keys: ["'a'", "'b'"] against []""",
    ]
    assert info_differences(one, {**one, "missing_keys": ["b", "a"]}) == [
        "missing_keys, its class: <class 'set'> against <class 'list'>"
    ]
