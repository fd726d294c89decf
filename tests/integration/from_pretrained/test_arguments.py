"""Each argument of the stock call: ours gives the same model, or fails with the same error."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402 - after the skips

import streamload  # noqa: E402 - after the skips
import streamload.transformers  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips
from .compare import differences, info_differences  # noqa: E402 - after the skips

pytestmark = pytest.mark.slow

Llama = transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with one model in several ways."""
    directory = tmp_path_factory.mktemp("tiny") / "llama"
    tiny.save(directory)
    tiny.save(directory / "below", num_hidden_layers=1)
    tiny.save(directory / "narrow", vocab_size=48)
    Llama.from_pretrained(directory).save_pretrained(directory, variant="fp16", max_shard_size="20KB")
    renamed = {f"old.{name}": tensor for name, tensor in load_file(directory / "model.safetensors").items()}
    shutil.copytree(directory / "below", directory / "old")
    save_file(renamed, directory / "old" / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(directory / "config.json", directory / "old" / "config.json")
    shutil.copytree(directory / "below", directory / "pickled")
    (directory / "pickled" / "model.safetensors").unlink()
    torch.save(load_file(directory / "below" / "model.safetensors"), directory / "pickled" / "pytorch_model.bin")
    return directory


def outcome(load, name, given):
    """What a load gives: a model and what is known of its load, or an error."""
    torch.manual_seed(3)
    try:
        made = load(name, **given)
    except Exception as error:
        return error
    return made if isinstance(made, tuple) else (made, {})


def streamed(name, **given: object):
    if "device_map" not in given:
        given["device"] = "cpu"
    return streamload.from_pretrained(name, auto_class=Llama, options=StreamOptions(debug=True), **given)


def assert_alike(directory, given, *, where=""):
    """Load both ways, and return the model of ours, or None where both failed alike."""
    name = str(Path(directory) / where) if where is not None else given.pop("name")
    dtype = {} if {"dtype", "torch_dtype"} & given.keys() else {"dtype": "auto"}
    stock, ours = outcome(Llama.from_pretrained, name, {**dtype, **given}), outcome(streamed, name, dict(given))
    if isinstance(stock, Exception) or isinstance(ours, Exception):
        assert type(ours) is type(stock), (ours, stock)
        assert str(ours) == str(stock)
        return None
    handle = ours[0].streamload
    handle.wait(60)
    del ours[0].streamload
    assert differences(stock[0], ours[0]) == []
    assert info_differences(stock[1], ours[1]) == []
    return handle


STREAMS = {
    "revision": {"revision": "main"},
    "a revision, of a directory": {"revision": "v9"},
    "subfolder": {"subfolder": "below"},
    "variant": {"variant": "fp16"},
    "dtype as text": {"dtype": "float16"},
    "dtype": {"dtype": torch.float64},
    "torch_dtype": {"torch_dtype": "float32"},
    "a dtype for each part": {"dtype": {"": "float16"}},
    "device_map cpu": {"device_map": "cpu"},
    "device_map of a device": {"device_map": torch.device("cpu")},
    "device_map of one device": {"device_map": {"model": "cpu", "lm_head": "cpu"}},
    "device_map of a part": {"device_map": {"model.layers.0": "cpu"}},
    "device_map sequential": {"device_map": "sequential", "max_memory": {"cpu": "1GB"}},
    "device_map auto": {"device_map": "auto", "max_memory": {"cpu": "1GB"}},
    "device_map balanced": {"device_map": "balanced", "max_memory": {"cpu": "1GB"}},
    "attention eager": {"attn_implementation": "eager"},
    "attention sdpa": {"attn_implementation": "sdpa"},
    "attention of parts": {"attn_implementation": {"": "eager"}},
    "trust": {"trust_remote_code": True},
    "no trust": {"trust_remote_code": False},
    "token": {"token": "hf_none"},
    "no token": {"token": False},
    "cache_dir": {"cache_dir": "/nonexistent"},
    "local_files_only": {"local_files_only": True},
    "force_download": {"force_download": True},
    "proxies": {"proxies": {}},
    "other sizes": {"ignore_mismatched_sizes": True, "subfolder": "narrow", "output_loading_info": True},
    "other sizes wanted": {"ignore_mismatched_sizes": True, "vocab_size": 80, "output_loading_info": True},
    "output_loading_info": {"output_loading_info": True},
    "low_cpu_mem_usage": {"low_cpu_mem_usage": True},
    "no low_cpu_mem_usage": {"low_cpu_mem_usage": False},
    "use_safetensors": {"use_safetensors": True},
    "key_mapping": {"subfolder": "old", "key_mapping": {r"^old\.": ""}, "output_loading_info": True},
    "names that nobody maps": {"subfolder": "old", "output_loading_info": True},
    "config": {"config": tiny.config(num_hidden_layers=1)},
    "generation_config": {"generation_config": transformers.GenerationConfig(max_new_tokens=3)},
    "weights_only": {"weights_only": False},
    "disable_mmap": {"disable_mmap": True},
    "adapter_kwargs": {"adapter_kwargs": {}},
    "adapter_name": {"adapter_name": "mine"},
    "offload_folder": {"offload_folder": "/nonexistent"},
    "a setting of the config": {"rms_norm_eps": 0.25},
}


REFUSED_BY_OLD = {"4.": ("device_map of a part", "key_mapping", "disable_mmap"), "5.0.": ("disable_mmap",)}
"""What old versions of transformers themselves fail at, and so do we."""


@pytest.mark.parametrize("name", STREAMS)
def test_with_this_argument_it_streams_what_stock_loads(name, saved):
    given = STREAMS[name]
    if torch.cuda.is_available() and given.get("device_map") in ("auto", "balanced", "sequential"):
        pytest.skip("goes to the GPU here")
    handle = assert_alike(saved, given)
    if any(tiny.VERSION.startswith(old) and name in refused for old, refused in REFUSED_BY_OLD.items()):
        assert handle is None
        return
    assert handle is not None
    assert handle.reason is None


FAILS = {
    "a subfolder that is not there": {"subfolder": "nowhere"},
    "a variant that is not there": {"variant": "fp8"},
    "a dtype that is none": {"dtype": "float17"},
    "a device map that is none": {"device_map": "everywhere"},
    "attention that is none": {"attn_implementation": "no_such_attention"},
    "use_safetensors with pickles alone": {"use_safetensors": True, "subfolder": "pickled"},
    "no use_safetensors without pickles": {"use_safetensors": False, "subfolder": "below"},
    "sizes that do not fit": {"vocab_size": 80},
    "an argument that is none": {"no_such_argument": 1},
    "a GGUF file that is not there": {"gguf_file": "model.gguf"},
    "a tensor parallel plan": {"tp_plan": "auto", "device_map": "cpu"},
    "a config that is not there": {"config": "/nonexistent"},
    "a quantiser that is none": {"quantization_config": {"quant_method": "none_such"}},
}


@pytest.mark.parametrize("given", FAILS.values(), ids=FAILS.keys())
def test_with_this_argument_it_fails_as_stock_does(given, saved):
    assert assert_alike(saved, given) is None


def test_what_is_no_model_fails_as_in_stock(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("someone/nothing", "nothing", "/nonexistent"):
        assert assert_alike(None, {"name": name}, where=None) is None


def test_pickles_may_be_asked_for(saved):
    handle = assert_alike(saved, {"use_safetensors": False, "subfolder": "pickled"})
    assert "not a safetensors file" in handle.reason


def test_a_state_dict_beside_a_name_is_refused_as_in_stock(saved):
    assert assert_alike(saved, {"state_dict": load_file(saved / "model.safetensors")}) is None


def test_a_state_dict_of_ones_own_is_loaded_by_transformers(saved):
    weights = {name: tensor + 1 for name, tensor in load_file(saved / "model.safetensors").items()}
    given = {"config": tiny.config(), "state_dict": weights, "dtype": "auto"}
    stock = Llama.from_pretrained(None, **given)
    model = streamload.transformers.streamed(Llama).from_pretrained(None, **given)
    assert "state dict" in model.streamload.reason
    del model.streamload
    assert differences(stock, model) == []


def test_a_config_may_be_named_by_its_directory(saved):
    handle = assert_alike(saved, {"config": str(saved / "below")})
    assert handle is not None
    assert handle.reason is None
