"""Real checkpoints that were quantised before: what stock makes of them, streamed or with one warning.

FP8 in blocks needs no package; the others skip without theirs. All are on the CPU, where transformers computes with
some of them in float only after it has turned them back.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402 - after the skips

from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.transformers import patch  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips
from .compare import differences  # noqa: E402 - after the skips

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of the packages, of themselves
]

Llama = transformers.LlamaForCausalLM
BLOCK = 64


def plain(directory):
    """Save a model whose weights fill whole blocks."""
    return tiny.save(directory, hidden_size=128, intermediate_size=256, vocab_size=128)


def in_fp8_blocks(directory):
    """Rewrite a checkpoint as FP8 in blocks, each with a scale; quantising takes a GPU, reading does not."""
    path = Path(plain(directory))
    tensors = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        tensors[name] = tensor
        if "_proj" in name:
            blocks = tensor.float().unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
            scale = blocks.abs().amax((1, 3), keepdim=True) / 448
            tensors[name] = (blocks / scale).reshape(tensor.shape).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (path / "config.json").write_text(json.dumps(config))
    return path


def compressed(scheme):
    """Return a function that compresses a checkpoint in the way of compressed-tensors."""

    def make(directory):
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            apply_quantization_config,
            preset_name_to_scheme,
        )

        model = Llama.from_pretrained(plain(directory / "plain"))
        groups = {"group_0": preset_name_to_scheme(scheme, ["Linear"])}
        apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
        for module in model.modules():
            if (scale := getattr(module, "weight_scale", None)) is not None:
                largest = module.weight.detach().abs().reshape(*scale.shape, -1).amax(-1)
                scale.data = (largest / (7 if scheme == "W4A16" else 127)).to(scale.dtype)
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(directory / "compressed")
        compressor.update_config(directory / "compressed")
        return directory / "compressed"

    return make


def by_transformers(directory, config):
    """Have transformers quantise a checkpoint."""
    Llama.from_pretrained(plain(directory / "plain"), quantization_config=config, device_map="cpu").save_pretrained(
        directory / "quantized"
    )
    return directory / "quantized"


def in_torchao(directory):
    from torchao.quantization import Int8WeightOnlyConfig

    return by_transformers(directory, transformers.TorchAoConfig(Int8WeightOnlyConfig()))


def load_both(directory):
    stock = Llama.from_pretrained(directory, device_map="cpu")
    with patch(options=StreamOptions(debug=True)):
        model = Llama.from_pretrained(directory, device_map="cpu")
    return stock, model


def assert_equal_logits(stock, model):
    """Compare what two models compute. Stock gets memory of its own: over a mapped file kernels may round otherwise."""
    for parameter in stock.parameters():
        with contextlib.suppress(NotImplementedError, RuntimeError):  # of a class of its own
            parameter.data = parameter.data.clone()
    with torch.no_grad():
        left, right = (one(torch.arange(8)[None]).logits for one in (stock, model))
    assert not left.isnan().any()
    assert torch.equal(left, right)


STREAMED = {
    "fp8 in blocks": (None, in_fp8_blocks),
    "compressed-tensors, 8 bits": ("compressed_tensors", compressed("W8A8")),
    "compressed-tensors, 4 bits packed": ("compressed_tensors", compressed("W4A16")),
}


@pytest.mark.parametrize(("package", "make"), STREAMED.values(), ids=STREAMED.keys())
def test_a_quantised_checkpoint_streams_and_is_stocks_bit_for_bit(package, make, tmp_path):
    if package is not None:
        pytest.importorskip(package)
    elif tiny.VERSION.startswith(("4.", "5.0.")):
        pytest.skip(f"transformers {tiny.VERSION} reads FP8 on a GPU only")
    stock, model = load_both(make(tmp_path))
    assert model.streamload.reason is None
    assert model.streamload.progress() == 1.0  # quantisers' kernels take memory past torch: all is there
    del model.streamload
    assert differences(stock, model) == []
    assert_equal_logits(stock, model)


LEFT_TO_STOCK = {
    "torchao": ("torchao", in_torchao),
    "bitsandbytes, 4 bits": (
        "bitsandbytes",
        lambda directory: by_transformers(directory, transformers.BitsAndBytesConfig(load_in_4bit=True)),
    ),
    "bitsandbytes, 8 bits": (
        "bitsandbytes",
        lambda directory: by_transformers(directory, transformers.BitsAndBytesConfig(load_in_8bit=True)),
    ),
}


@pytest.mark.parametrize(("package", "make"), LEFT_TO_STOCK.values(), ids=LEFT_TO_STOCK.keys())
def test_a_format_that_unpacks_by_its_metadata_is_loaded_by_transformers(package, make, tmp_path, caplog):
    pytest.importorskip(package)
    directory = make(tmp_path)
    caplog.clear()
    stock, model = load_both(directory)
    assert f"in the format of {package}" in model.streamload.reason
    warnings = [record for record in caplog.records if record.name.startswith("streamload")]
    assert [record.levelname for record in warnings] == ["WARNING"]
    assert [type(parameter) for parameter in stock.parameters()] == [type(each) for each in model.parameters()]
    assert_equal_logits(stock, model)
