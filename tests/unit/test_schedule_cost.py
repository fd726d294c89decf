"""What layers are guessed to compute, by names, shapes and config, and the free prompt that follows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamload._checkpoint._layers import group_layers
from streamload._format import TensorInfo
from streamload._schedule import ACCELERATORS, MOST_TOKENS, LayerCost, ModelFacts, cost_of_layers, free_tokens

H100 = ACCELERATORS["h100"]


def layers_of(tensors):
    """Layers of (name, shape), all BF16."""
    return group_layers([TensorInfo(name, "BF16", shape, 0, 2 * prod(shape)) for name, shape in tensors])


def costs_by_name(tensors, **facts: object):
    layers = layers_of(tensors)
    costs, guesses = cost_of_layers(layers, ModelFacts(**facts))
    return {layer.name: cost for layer, cost in zip(layers, costs, strict=True)}, guesses


LLAMA = [
    ("model.embed_tokens.weight", (1000, 16)),
    ("model.layers.0.self_attn.q_proj.weight", (16, 16)),
    ("model.layers.0.input_layernorm.weight", (16,)),
    ("model.layers.1.mlp.up_proj.weight", (64, 16)),
    ("model.norm.weight", (16,)),
    ("lm_head.weight", (1000, 16)),
]


def test_matrices_compute_by_the_token_tables_not_at_all_and_the_head_once():
    costs, _ = costs_by_name(LLAMA)
    assert costs["model.embed_tokens"] == LayerCost()
    assert costs["model.layers.0"] == LayerCost(token_flops=2 * 16 * 16, dense_bytes=2 * (16 * 16 + 16))
    assert costs["model.layers.1"] == LayerCost(token_flops=2 * 64 * 16, dense_bytes=2 * 64 * 16)
    assert costs["lm_head"] == LayerCost(pass_flops=2 * 16_000, dense_bytes=32_000)


def test_attention_counts_in_the_layers_that_have_it():
    costs, guesses = costs_by_name(LLAMA, width=16, layers=2)
    assert [costs[f"model.layers.{n}"].square_flops for n in (0, 1)] == [32, 32]
    assert costs["model.norm"].square_flops == 0
    assert guesses == []
    vision = [(f"vision.blocks.{n}.w.weight", (4, 4)) for n in range(5)]
    costs, _ = costs_by_name([*LLAMA, *vision], width=16, layers=2)
    assert costs["vision.blocks.0"].square_flops == 0
    assert costs["model.layers.1"].square_flops == 32


def test_a_tied_table_is_the_head_too():
    costs, _ = costs_by_name(LLAMA[:-1], tied=True)
    assert costs["model.norm"].pass_flops == 2 * 16_000
    assert costs["model.norm"].dense_bytes == 32_000 + 32
    assert costs_by_name(LLAMA, tied=True)[0]["model.norm"].pass_flops == 0  # a head of its own is there
    assert costs_by_name(LLAMA[:-1])[0]["model.norm"].pass_flops == 0


EXPERTS = [(f"model.layers.0.mlp.experts.{n}.up_proj.weight", (8, 8)) for n in range(8)]
ROUTED = [*EXPERTS, ("model.layers.0.mlp.shared_experts.up_proj.weight", (8, 8))]


def test_experts_compute_as_far_as_a_token_meets_them():
    costs, guesses = costs_by_name(ROUTED, experts=8, experts_per_token=2)
    assert costs["model.layers.0"].token_flops == 2 * 64 * (8 * 0.25 + 1)
    assert (costs["model.layers.0"].expert_bytes, costs["model.layers.0"].dense_bytes) == (8 * 128, 128)
    assert not any("mixture" in guess for guess in guesses)
    whole, guesses = costs_by_name(ROUTED)
    assert whole["model.layers.0"].token_flops == 2 * 64 * 9
    assert "mixture of experts" in guesses[0]


def test_more_tokens_meet_more_experts():
    slow = replace(H100, flops_per_second=inf, hbm_bytes_per_second=1.0)
    cost = LayerCost(expert_bytes=1000, active_share=0.25)
    assert cost.seconds(1, slow) == 250
    assert cost.seconds(2, slow) == 437.5  # 1 - 0.75 squared
    assert cost.seconds(1000, slow) == pytest.approx(1000)


def test_a_layer_takes_the_longer_of_computing_and_reading():
    cost = LayerCost(token_flops=59e9, dense_bytes=30_000_000)
    assert cost.seconds(1, H100) == pytest.approx(1e-4)
    assert cost.seconds(100, H100) == pytest.approx(1e-2)
    assert cost.seconds(3, H100) == pytest.approx(3e-4)
    assert LayerCost(dense_bytes=30_000_000).seconds(1, H100) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ModelFacts()),
        (
            {"hidden_size": 8, "num_hidden_layers": 2, "tie_word_embeddings": True},
            ModelFacts(width=8, layers=2, tied=True),
        ),
        ({"hidden_size": 8, "num_attention_heads": 4, "head_dim": 3}, ModelFacts(width=12)),
        ({"num_local_experts": 8, "num_experts_per_tok": 2}, ModelFacts(experts=8, experts_per_token=2)),
        ({"n_routed_experts": 256, "num_experts_per_tok": 8}, ModelFacts(experts=256, experts_per_token=8)),
        ({"text_config": {"hidden_size": 8, "num_hidden_layers": 2}}, ModelFacts(width=8, layers=2)),
        (
            {"n_embd": 768, "n_layer": 12, "architectures": ["GPT2LMHeadModel"]},
            ModelFacts(width=768, layers=12, tied=True),
        ),
        ({"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}, ModelFacts()),
        ({"architectures": ["BertModel", 7]}, ModelFacts()),
        ({"hidden_size": "8", "num_hidden_layers": -2, "num_experts": True, "text_config": []}, ModelFacts()),
        ({"hidden_size": 1 << 62, "num_hidden_layers": 2.5, "tie_word_embeddings": 1}, ModelFacts()),
    ],
)
def test_a_config_is_taken_for_what_it_surely_says(config, expected):
    assert ModelFacts.from_config(config) == expected


@given(st.integers(10**6, 10**9), st.sampled_from([1, 2, 4]), st.sampled_from([(1, 1), (8, 2), (256, 8)]))
def test_the_free_prompt_is_the_formulas(size, width, experts):
    """T* = F b / (2 B) times all parameters over those a token meets: research, section 1."""
    total, active = experts
    endless = replace(H100, hbm_bytes_per_second=inf)
    cost = LayerCost(token_flops=2 * size * active, expert_bytes=size * width * total, active_share=active / total)
    found = free_tokens([cost] * 3, 3 * size * width * total / 55e9, endless)
    expected = 590e12 * width / (2 * 55e9) * total / active
    assert found == pytest.approx(expected, abs=1)


def test_the_free_prompt_is_none_where_one_token_takes_longer_and_bounded_where_none_does():
    assert free_tokens([LayerCost(token_flops=1e15)], 1.0, H100) == 0
    assert free_tokens([LayerCost(token_flops=590e12)], 1.0, H100) == 1
    assert free_tokens([LayerCost()], 1.0, H100) == MOST_TOKENS
    assert free_tokens([], 0.0, H100) == MOST_TOKENS


def test_the_table_is_in_order():
    for name, known in ACCELERATORS.items():
        assert known.name == name == name.lower()
        assert 10e9 < known.memory_bytes < 1e12
        assert 10e9 < known.link_bytes_per_second < 64e9, "below what PCIe 5.0 x16 is nominally"
        assert known.link_bytes_per_second * 5 < known.hbm_bytes_per_second < 10e12
        assert 1e13 < known.flops_per_second < 2e15


def test_longer_prompts_never_take_less_time():
    cost = LayerCost(token_flops=1e9, pass_flops=3e9, square_flops=1e3, dense_bytes=10**7, expert_bytes=10**8)
    times = [cost.seconds(tokens, H100) for tokens in (1, 2, 10, 1000, 10**6)]
    assert all(earlier <= later for earlier, later in pairwise(times))
