"""Tiny models for vLLM, with weights of every kind that a loader meets.

Sizes are such that half a row of a row-parallel weight is wider than what is read through (4 KiB).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

COMMON = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **COMMON}
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_act": "silu",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 4608,
    "intermediate_size": 4608,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    **COMMON,
}
W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def _shapes(config: dict[str, object], *, tied: bool) -> dict[str, tuple[int, ...]]:
    hidden, width = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        found[f"{at}.input_layernorm.weight"] = (hidden,)
        found[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        found[f"{at}.self_attn.q_proj.weight"] = (heads * width, hidden)
        found[f"{at}.self_attn.k_proj.weight"] = (kv_heads * width, hidden)
        found[f"{at}.self_attn.v_proj.weight"] = (kv_heads * width, hidden)
        found[f"{at}.self_attn.o_proj.weight"] = (hidden, heads * width)
        if "num_experts" in config:
            found[f"{at}.self_attn.q_norm.weight"] = (width,)
            found[f"{at}.self_attn.k_norm.weight"] = (width,)
            found[f"{at}.mlp.gate.weight"] = (config["num_experts"], hidden)
        inner = config.get("moe_intermediate_size", config["intermediate_size"])
        for expert in range(config.get("num_experts", 1)):
            mlp = f"{at}.mlp.experts.{expert}" if "num_experts" in config else f"{at}.mlp"
            found[f"{mlp}.gate_proj.weight"] = (inner, hidden)
            found[f"{mlp}.up_proj.weight"] = (inner, hidden)
            found[f"{mlp}.down_proj.weight"] = (hidden, inner)
    found["model.norm.weight"] = (hidden,)
    if not tied:
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16) + 0.1 * torch.randn(shape, generator=generator).bfloat16()
    return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).bfloat16()


def _quantised(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The linear weights as int8 and a scale for each channel."""
    import torch

    found = {}
    for name, tensor in tensors.items():
        if not name.endswith("proj.weight"):
            found[name] = tensor
            continue
        scale = tensor.float().abs().amax(dim=1, keepdim=True) / 127
        found[name] = (tensor.float() / scale).round().clamp(-128, 127).to(torch.int8)
        found[f"{name}_scale"] = scale.bfloat16()
    return found


def make_model(
    folder: Path,
    config: dict[str, object],
    *,
    tied: bool = False,
    quantised: bool = False,
    shards: int = 3,
    seed: int = 7,
) -> Path:
    """Write a model with random weights: config, shards, index."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"intermediate_size": 8192, **config, "tie_word_embeddings": tied}
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _random(name, shape, generator) for name, shape in _shapes(config, tied=tied).items()}
    if quantised:
        tensors = _quantised(tensors)
        config["quantization_config"] = W8A8
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        held = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
