"""Which loads are left to transformers, and the reason that is named."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from streamload.transformers._obstacles import find_obstacle, is_quantized  # noqa: E402 - after the skips


def given(**changes: object):
    """Arguments of the load method, in the form of transformers 5."""
    settings = {"device_map": None, "device_mesh": None, "hf_quantizer": None}
    arguments = {"model": None, "state_dict": None, "checkpoint_files": ["a.safetensors"]}
    settings.update({name: value for name, value in changes.items() if name in settings})
    arguments.update({name: value for name, value in changes.items() if name in arguments})
    return {**arguments, "load_config": SimpleNamespace(**settings)}


def quantizer(method, *, pre_quantized):
    return SimpleNamespace(
        pre_quantized=pre_quantized, quantization_config=SimpleNamespace(quant_method=SimpleNamespace(value=method))
    )


@pytest.mark.parametrize(
    "device_map",
    [
        None,
        {"": "cpu"},
        {"": 0},
        {"": torch.device("cuda:1")},
        {"model": 0, "lm_head": "cuda:0"},
        {"model": "cuda", "lm_head": torch.device("cuda", 0)},
    ],
)
def test_one_device_streams(device_map):
    assert find_obstacle(given(device_map=device_map)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state_dict": {}}, "state dict"),
        ({"checkpoint_files": ["pytorch_model.bin"]}, r"pytorch_model.bin is not a safetensors file"),
        ({"checkpoint_files": ["a.safetensors", "b.gguf"]}, "b.gguf"),
        ({"checkpoint_files": None}, "no checkpoint files"),
        ({"device_map": {"model": 0, "lm_head": "disk"}}, "on disk"),
        ({"device_map": {"": "disk"}}, "on disk"),
        ({"device_map": {"model": 0, "lm_head": "cpu"}}, "more than one device: cuda:0, cpu"),
        ({"device_map": {"model": 0, "lm_head": 1}}, "more than one device: cuda:0, cuda:1"),
        ({"device_map": {"": "mps"}}, "mps is neither"),
        ({"device_map": {"": "meta"}}, "meta is neither"),
        ({"device_mesh": object()}, "device mesh"),
        ({"hf_quantizer": quantizer("fp8", pre_quantized=False)}, r"quantised while it loads \(fp8\)"),
        ({"hf_quantizer": quantizer("bitsandbytes", pre_quantized=True)}, "format of bitsandbytes"),
        ({"hf_quantizer": SimpleNamespace()}, "quantised while it loads"),
    ],
)
def test_what_cannot_be_right_is_named(changes, reason):
    assert re.search(reason, find_obstacle(given(**changes)) or "")


@pytest.mark.parametrize("method", ["awq", "compressed-tensors", "fp8", "gptq"])
def test_checkpoints_that_are_quantised_already_stream_and_are_known_as_such(method):
    arguments = given(hf_quantizer=quantizer(method, pre_quantized=True))
    assert find_obstacle(arguments) is None
    assert is_quantized(arguments)
    assert not is_quantized(given())


@pytest.mark.parametrize(
    ("name", "reason"), [("is_deepspeed_zero3_enabled", "DeepSpeed ZeRO-3"), ("is_fsdp_enabled", "FSDP")]
)
def test_sharded_training_is_left_to_transformers(name, reason, monkeypatch):
    monkeypatch.setattr(transformers.modeling_utils, name, lambda: True)
    assert reason in find_obstacle(given())


def test_settings_are_found_among_the_arguments_of_transformers_4():
    arguments = {"state_dict": None, "checkpoint_files": ["a.safetensors"], "device_map": {"": "disk"}}
    assert "on disk" in find_obstacle(arguments)
