"""The order a model runs its tensors in, guessed from names alone."""

from __future__ import annotations

import random

import pytest

from streamload._checkpoint import group_layers
from streamload._format import TensorInfo


def tensors(*names: str) -> list[TensorInfo]:
    return [TensorInfo(name, "U8", (1,), at, at + 1) for at, name in enumerate(names)]


def blocks(stack: str, count: int, *tails: str) -> list[str]:
    return [f"{stack}.{number}.{tail}" for number in range(count) for tail in tails]


def layer_names(*names: str) -> list[str]:
    shuffled = tensors(*names)
    random.Random(0).shuffle(shuffled)
    return [layer.name for layer in group_layers(shuffled)]


MODELS = {
    "llama": (
        [
            *("lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"),
            *blocks("model.layers", 12, "input_layernorm.weight", "mlp.up_proj.weight", "self_attn.q_proj.weight"),
        ],
        ["model.embed_tokens", *[f"model.layers.{n}" for n in range(12)], "model.norm", "lm_head"],
    ),
    "gpt2": (
        ["ln_f.bias", "ln_f.weight", "wpe.weight", "wte.weight", *blocks("h", 11, "attn.c_attn.weight", "ln_1.bias")],
        ["wpe", "wte", *[f"h.{n}" for n in range(11)], "ln_f"],
    ),
    "gpt2 with its head": (
        ["lm_head.weight", "transformer.ln_f.bias", "transformer.wte.weight", *blocks("transformer.h", 2, "ln_1.bias")],
        ["transformer.wte", "transformer.h.0", "transformer.h.1", "transformer.ln_f", "lm_head"],
    ),
    "bert": (
        [
            *("cls.predictions.bias", "cls.predictions.decoder.weight", "bert.pooler.dense.weight"),
            *("bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight"),
            *blocks("bert.encoder.layer", 3, "attention.self.query.weight", "output.dense.bias"),
        ],
        ["bert.embeddings", *[f"bert.encoder.layer.{n}" for n in range(3)], "bert.pooler", "cls"],
    ),
    "t5": (
        [
            *("shared.weight", "lm_head.weight", "decoder.final_layer_norm.weight", "encoder.final_layer_norm.weight"),
            *blocks("decoder.block", 2, "layer.0.SelfAttention.q.weight", "layer.10.DenseReluDense.wi.weight"),
            *blocks("encoder.block", 2, "layer.0.SelfAttention.q.weight", "layer.1.DenseReluDense.wi.weight"),
        ],
        [
            *("shared", "encoder.block.0", "encoder.block.1", "encoder.final_layer_norm"),
            *("decoder.block.0", "decoder.block.1", "decoder.final_layer_norm", "lm_head"),
        ],
    ),
    "mixture of experts": (
        [
            *("model.embed_tokens.weight", "model.norm.weight"),
            *blocks("model.layers", 2, "mlp.gate.weight", "mlp.shared_expert.up_proj.weight"),
            *[name for n in range(2) for name in blocks(f"model.layers.{n}.mlp.experts", 11, "w1.weight", "w2.weight")],
        ],
        ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"],
    ),
    "vision transformer": (
        [
            *("classifier.weight", "vit.layernorm.weight", "vit.embeddings.cls_token"),
            *(
                "vit.embeddings.patch_embeddings.projection.weight",
                *blocks("vit.encoder.layer", 2, "output.dense.bias"),
            ),
        ],
        ["vit.embeddings", "vit.encoder.layer.0", "vit.encoder.layer.1", "vit.layernorm", "classifier"],
    ),
    "timm": (
        ["head.weight", "norm.weight", "cls_token", "pos_embed", "patch_embed.proj.weight", *blocks("blocks", 2, "x")],
        ["cls_token", "patch_embed", "pos_embed", "blocks.0", "blocks.1", "norm", "head"],
    ),
    "residual network": (
        ["fc.weight", "bn1.weight", "conv1.weight", "layer10.0.conv1.weight", "layer2.0.bn1.bias", "layer2.1.bn1.bias"],
        ["bn1", "conv1", "layer2.0", "layer2.1", "layer10.0", "fc"],
    ),
    "clip": (
        [
            *("logit_scale", "text_projection.weight", "visual_projection.weight"),
            *("vision_model.post_layernorm.bias", "vision_model.pre_layrnorm.bias", "vision_model.embeddings.x"),
            *("text_model.final_layer_norm.bias", "text_model.embeddings.token_embedding.weight"),
            *(*blocks("text_model.encoder.layers", 1, "x"), *blocks("vision_model.encoder.layers", 1, "x")),
        ],
        [
            *("vision_model.embeddings", "vision_model.pre_layrnorm", "vision_model.encoder.layers.0"),
            *("vision_model.post_layernorm", "text_model.embeddings", "text_model.encoder.layers.0"),
            *("text_model.final_layer_norm", "logit_scale", "text_projection", "visual_projection"),
        ],
    ),
    "vision and language": (
        [
            *(
                "multi_modal_projector.linear_1.weight",
                "language_model.lm_head.weight",
                "language_model.model.norm.weight",
            ),
            *("language_model.model.embed_tokens.weight", *blocks("language_model.model.layers", 1, "x")),
            *blocks("vision_tower.vision_model.encoder.layers", 1, "x"),
        ],
        [
            *("vision_tower.vision_model.encoder.layers.0", "multi_modal_projector"),
            *("language_model.model.embed_tokens", "language_model.model.layers.0"),
            *("language_model.model.norm", "language_model.lm_head"),
        ],
    ),
    "whisper": (
        [
            *("proj_out.weight", "model.decoder.layer_norm.bias", "model.decoder.embed_tokens.weight"),
            *("model.encoder.layer_norm.bias", "model.encoder.conv1.bias", "model.encoder.conv2.bias"),
            *(*blocks("model.decoder.layers", 1, "x"), *blocks("model.encoder.layers", 1, "x")),
        ],
        [
            *("model.encoder.conv1", "model.encoder.conv2", "model.encoder.layers.0", "model.encoder.layer_norm"),
            *("model.decoder.embed_tokens", "model.decoder.layers.0", "model.decoder.layer_norm", "proj_out"),
        ],
    ),
    "diffusion": (
        [
            *("conv_out.weight", "conv_norm_out.weight", "conv_in.weight", "time_embedding.linear_1.weight"),
            *(*blocks("up_blocks", 1, "x"), *blocks("mid_block.resnets", 1, "x"), *blocks("down_blocks", 1, "x")),
        ],
        [
            *("conv_in", "time_embedding", "down_blocks.0", "mid_block.resnets.0", "up_blocks.0"),
            *("conv_norm_out", "conv_out"),
        ],
    ),
    "no blocks": (["fc10.weight", "fc2.weight", "fc2.bias", "fc1.weight"], ["fc1", "fc2", "fc10"]),
    "sequential": (["10.weight", "2.weight", "2.bias", "0.weight"], ["0", "2", "10"]),
}


@pytest.mark.parametrize("model", MODELS)
def test_layers_come_in_the_order_the_model_runs(model):
    names, expected = MODELS[model]
    assert layer_names(*names) == expected


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_is_in_exactly_one_layer(model):
    names, _ = MODELS[model]
    grouped = [tensor.name for layer in group_layers(tensors(*names)) for tensor in layer.tensors]
    assert sorted(grouped) == sorted(names)


def test_order_does_not_depend_on_the_input():
    every = tensors(*{name: None for names, _ in MODELS.values() for name in names})
    expected = group_layers(every)
    for seed in range(5):
        random.Random(seed).shuffle(every)
        assert group_layers(every) == expected


def test_small_tensors_of_a_layer_come_first():
    sizes = {"h.0.b": 8, "h.0.a": 8, "h.0.big": 100, "h.0.tiny": 0}
    infos, at = [], 0
    for name, nbytes in sizes.items():
        infos.append(TensorInfo(name, "U8", (nbytes,), at, at + nbytes))
        at += nbytes
    (layer,) = group_layers(infos)
    assert [tensor.name for tensor in layer.tensors] == ["h.0.tiny", "h.0.b", "h.0.a", "h.0.big"]
    assert layer.nbytes == 116


def test_no_tensors_make_no_layers():
    assert group_layers([]) == ()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "0",
        ".0",
        "0.",
        "a.٣.b",
        "a.1x.b",
        "a." + "9" * 5000 + ".b",
        "a." * 100_000,
        "." * 50_000 + "7",
        "1a" * 9999,
    ],
)
def test_strange_names_still_make_a_layer(name):
    (layer,) = group_layers(tensors(name))
    assert layer.tensors[0].name == name
    assert name.startswith(layer.name)


def test_only_a_whole_part_of_digits_is_a_block():
    assert layer_names("a.x1.b", "a.x1.c", "b.1.c") == ["b.1", "a"]


def test_grouping_takes_a_few_calls_a_tensor(count_calls):
    infos = tensors(*[f"model.layers.{n // 500}.mlp.experts.{n}.w" for n in range(4_000)])
    assert count_calls(lambda: group_layers(infos)) < 12 * 4_000
