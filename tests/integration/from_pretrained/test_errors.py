"""Bad input: stock's error where it has a good one, ours with it where it has not, and never a model with garbage."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import SafetensorError  # noqa: E402 - after the skips
from safetensors.torch import load_file, save_file  # noqa: E402 - after the skips

import streamload  # noqa: E402 - after the skips
from streamload.errors import FormatError, SourceError  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.transformers import _patch  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

Llama = transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "llama", shard="20KB")


@pytest.fixture
def saved(pristine, tmp_path):
    """A model of several shards, to be spoilt."""
    return Path(shutil.copytree(pristine, tmp_path / "llama"))


def load(name, **given: object):
    given = {"device": "cpu", "options": StreamOptions(debug=True), "auto_class": Llama, **given}
    return streamload.from_pretrained(name, **given)


def shards(saved):
    return sorted(saved.glob("*.safetensors"))


def rewrite(saved, change):
    """Write a model's tensors anew, after a change of the dict of them, as one file."""
    tensors = {name: tensor for shard in shards(saved) for name, tensor in load_file(shard).items()}
    for shard in shards(saved):
        shard.unlink()
    (saved / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})


def stock_error(saved, **given: object):
    """The error of a stock load."""
    try:
        Llama.from_pretrained(saved, **given)
    except Exception as error:
        return error
    return None


def assert_stocks(raised, saved, **given: object):
    """Check that an error is the one that a stock load raises."""
    expected = stock_error(saved, **given)
    assert type(raised.value) is type(expected)
    assert str(raised.value) == str(expected)


def test_a_missing_shard_is_stocks_error(saved, open_descriptors):
    shards(saved)[1].unlink()
    before = open_descriptors()
    with pytest.raises(OSError, match="model-00002") as raised:
        load(saved)
    assert_stocks(raised, saved)
    assert open_descriptors() == before


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_truncated_file_says_where_beside_stocks_error(saved, left, caplog):
    shard = shards(saved)[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:left])
    with pytest.raises(SafetensorError) as raised:
        load(saved)
    assert_stocks(raised, saved)
    assert isinstance(raised.value.__context__, FormatError)
    assert shard.name in str(raised.value.__context__)
    assert shard.name in caplog.text


def test_a_header_that_is_no_json_is_an_error(saved):
    shard = shards(saved)[0]
    shard.write_bytes(struct.pack("<Q", 8) + b"nonsense")
    with pytest.raises(SafetensorError) as raised:
        load(saved)
    assert_stocks(raised, saved)


def test_a_file_that_shrinks_under_the_load_fails_it(saved, monkeypatch):
    opened = _patch.open_files

    def open_and_shrink(files):
        checkpoint = opened(files)
        for file in map(Path, files):
            with file.open("r+b") as spoilt:
                spoilt.truncate(file.stat().st_size - 64)
        return checkpoint

    monkeypatch.setattr(_patch, "open_files", open_and_shrink)
    with pytest.raises(SourceError):  # at the load, or at the first use
        load(saved).state_dict()["lm_head.weight"].sum()


def test_a_shape_that_does_not_fit_is_stocks_error(saved):
    def change(tensors):
        tensors["model.layers.0.self_attn.q_proj.weight"] = torch.ones(3, 3, dtype=torch.bfloat16)

    rewrite(saved, change)
    with pytest.raises(RuntimeError, match="mismatch") as raised:
        load(saved)
    assert_stocks(raised, saved)


def test_a_shape_that_does_not_fit_is_passed_over_as_in_stock(saved):
    name = "model.layers.0.self_attn.q_proj.weight"
    rewrite(saved, lambda tensors: tensors.update({name: torch.ones(3, 3, dtype=torch.bfloat16)}))
    given = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    torch.manual_seed(5)
    stock, stock_info = Llama.from_pretrained(saved, dtype="auto", **given)
    torch.manual_seed(5)
    model, info = load(saved, **given)
    assert info == stock_info
    keys = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]  # from 5 on with the shapes
    assert keys == [name]
    tiny.assert_equal(model, stock)


def test_unknown_and_missing_tensors_are_reported_as_in_stock(saved):
    def change(tensors):
        tensors["model.layers.9.nonsense"] = torch.ones(2)
        del tensors["model.layers.1.mlp.down_proj.weight"]

    rewrite(saved, change)
    torch.manual_seed(5)
    stock, stock_info = Llama.from_pretrained(saved, dtype="auto", output_loading_info=True)
    torch.manual_seed(5)
    model, info = load(saved, output_loading_info=True)
    assert info == stock_info
    assert set(info["missing_keys"]) == {"model.layers.1.mlp.down_proj.weight"}
    assert set(info["unexpected_keys"]) == {"model.layers.9.nonsense"}
    tiny.assert_equal(model, stock)


def test_an_index_that_names_what_no_shard_has_is_left_to_stock(saved):
    index = saved / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"]["model.nonsense"] = shards(saved)[0].name
    index.write_text(json.dumps(found))
    tiny.assert_equal(load(saved), Llama.from_pretrained(saved, dtype="auto"))


def test_a_config_without_weights_is_stocks_error(saved):
    for file in (*shards(saved), saved / "model.safetensors.index.json"):
        file.unlink()
    for auto_class in (Llama, None):
        with pytest.raises(OSError, match="no file named") as raised:
            load(saved, auto_class=auto_class)
        assert_stocks(raised, saved)


def test_weights_without_a_config_are_stocks_error(saved, monkeypatch):
    (saved / "config.json").unlink()
    saved.rename(saved.with_name("weights"))  # transformers 4 takes a path with "llama" in it for a Llama
    monkeypatch.chdir(saved.parent)
    with pytest.raises(ValueError, match="Unrecognized model"):
        load("weights", auto_class=None)


@pytest.mark.parametrize("auto_class", [Llama, None])
def test_a_repository_that_does_not_exist_is_stocks_error(tmp_path, auto_class):
    given = {"cache_dir": tmp_path, "local_files_only": True}
    with pytest.raises(OSError, match="couldn't find them in the cached files") as raised:
        load("someone/nothing", auto_class=auto_class, **given)
    assert_stocks(raised, "someone/nothing", **given)


def test_pickles_are_loaded_by_transformers_with_one_warning(saved, caplog):
    stock = Llama.from_pretrained(saved, dtype="auto")
    for file in (*shards(saved), saved / "model.safetensors.index.json"):
        file.unlink()
    torch.save(stock.state_dict(), saved / "pytorch_model.bin")
    model = load(saved, wait=True)
    assert model.streamload.done
    assert "pytorch_model.bin is not a safetensors file" in model.streamload.reason
    warnings = [record for record in caplog.records if record.name.startswith("streamload")]
    assert [record.levelname for record in warnings] == ["WARNING"]
    tiny.assert_equal(model, stock)


def test_weights_on_disk_are_loaded_by_transformers_with_one_warning(saved, tmp_path, caplog):
    device_map = {"model": "cpu", "lm_head": "disk"}
    model = streamload.from_pretrained(saved, device_map=device_map, offload_folder=tmp_path / "offload")
    assert "on disk" in model.streamload.reason
    assert "on disk" in caplog.text
    with torch.no_grad():
        assert not model(torch.arange(4)[None]).logits.isnan().any()
