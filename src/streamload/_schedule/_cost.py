"""Guess what layers compute, from tensor names and shapes and, where it is there, the model's config.

Part of `_schedule`; pure. A matrix of P elements takes 2 P flops for each token; an embedding table is looked up,
which takes none; the head runs for one position; of experts each token meets a few. Attention takes 2 T² d flops in a
layer of width d for T tokens (causal). A layer takes the time of its flops, or of reading its weights from the device's
memory, whichever is longer. Norms, activations, the KV cache and everything else are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._checkpoint import Layer
    from .._format import TensorInfo
    from ._accelerators import Accelerator

_TABLE = re.compile(r"(?:^|\.)(?:wte|wpe|shared|(?!patch|embed_out)[^.]*embed(?!der)[^.]*)\.weight$")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|head|score|classifier)(?:\.|$)")
_EXPERTS = re.compile(r"\.experts\.")

# Names in use for the same thing; the first that is there counts.
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "experts_per_token", "moe_k")
_INNER_CONFIGS = ("text_config", "llm_config", "language_config")
_LANGUAGE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_MOST = 1 << 32  # of any number in a config; larger ones are no model's


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Hold what of a model is in its config and not in its headers; None where it is unknown.

    Attributes:
        experts: Experts of a layer.
        experts_per_token: How many of them a token meets.
        width: Of attention, all heads together.
        layers: How many have attention.
        tied: Whether the embedding table is the head too.
    """

    experts: int | None = None
    experts_per_token: int | None = None
    width: int | None = None
    layers: int | None = None
    tied: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> ModelFacts:
        """Take what is known from the contents of a transformers `config.json`."""
        for name in _INNER_CONFIGS:
            inner = config.get(name)
            if isinstance(inner, dict) and "hidden_size" in inner:
                config = {**config, **inner}
                break
        heads, head_width = _number(config, "num_attention_heads"), _number(config, "head_dim")
        return cls(
            experts=_number(config, *_EXPERT_COUNTS),
            experts_per_token=_number(config, *_EXPERTS_PER_TOKEN),
            width=heads * head_width if heads and head_width else _number(config, "hidden_size", "n_embd", "d_model"),
            layers=_number(config, "num_hidden_layers", "n_layer", "num_layers"),
            tied=_is_tied(config),
        )

    @property
    def active_share(self) -> float | None:
        """The share of a layer's experts that one token meets, None where it is unknown."""
        if self.experts is None or self.experts_per_token is None:
            return None
        return min(self.experts_per_token / self.experts, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """Hold what a layer computes and reads from the device's memory in one pass.

    Attributes:
        token_flops: For each token.
        pass_flops: Once, whatever the number of tokens.
        square_flops: For each token, times the number of tokens.
        dense_bytes: Of weights that every pass reads.
        expert_bytes: Of experts.
        active_share: Of the experts, what one token meets.
    """

    token_flops: float = 0.0
    pass_flops: float = 0.0
    square_flops: float = 0.0
    dense_bytes: int = 0
    expert_bytes: int = 0
    active_share: float = 1.0

    def seconds(self, tokens: int, accelerator: Accelerator) -> float:
        """Return the computing time for a prompt of that many tokens, the weights being there."""
        flops = self.pass_flops + tokens * (self.token_flops + tokens * self.square_flops)
        met = 1 - (1 - self.active_share) ** tokens  # of the experts, if each token chooses for itself
        nbytes = self.dense_bytes + met * self.expert_bytes
        return max(flops / accelerator.flops_per_second, nbytes / accelerator.hbm_bytes_per_second)


def cost_of_layers(layers: Sequence[Layer], facts: ModelFacts) -> tuple[list[LayerCost], list[str]]:
    """Return the cost of each layer, and a sentence for each thing that had to be guessed."""
    costs = [_cost(layer, facts) for layer in layers]
    attending = _attending(layers, facts)
    if facts.width is not None:
        for number in attending:
            costs[number] = replace(costs[number], square_flops=2.0 * facts.width)
    if facts.tied and costs and not any(map(_is_head, layers)):
        table = max(
            [tensor for layer in layers for tensor in layer.tensors if _is_table(tensor)], key=_size, default=None
        )
        if table is not None:
            last = costs[-1]
            costs[-1] = replace(
                last, pass_flops=last.pass_flops + 2.0 * _size(table), dense_bytes=last.dense_bytes + table.nbytes
            )
    return costs, _guesses(layers, facts, attending)


def _is_tied(config: Mapping[str, object]) -> bool:
    """Whether the table is the head: as the config says, else as language models have it by default."""
    said, kinds = config.get("tie_word_embeddings"), config.get("architectures")
    if isinstance(said, bool):
        return said
    return isinstance(kinds, list) and any(isinstance(kind, str) and kind.endswith(_LANGUAGE) for kind in kinds)


def _cost(layer: Layer, facts: ModelFacts) -> LayerCost:
    share = 1.0 if facts.active_share is None else facts.active_share
    token_flops = pass_flops = 0.0
    dense_bytes = expert_bytes = 0
    head = _is_head(layer)
    for tensor in layer.tensors:
        flops = 2.0 * _size(tensor) if len(tensor.shape) > 1 else 0.0
        if _EXPERTS.search(tensor.name):
            token_flops += flops * share
            expert_bytes += tensor.nbytes
        elif head:
            pass_flops += flops
            dense_bytes += tensor.nbytes
        elif not _is_table(tensor):
            token_flops += flops
            dense_bytes += tensor.nbytes
    return LayerCost(
        token_flops=token_flops,
        pass_flops=pass_flops,
        dense_bytes=dense_bytes,
        expert_bytes=expert_bytes,
        active_share=share,
    )


def _attending(layers: Sequence[Layer], facts: ModelFacts) -> list[int]:
    """Return which layers have attention: the first of the shortest run of numbered layers that is long enough."""
    runs: defaultdict[str, list[int]] = defaultdict(list)
    for number, layer in enumerate(layers):
        if _is_block(layer):
            runs[layer.name.rpartition(".")[0]].append(number)
    count = facts.layers or 0
    return min([run for run in runs.values() if 0 < count <= len(run)], key=len, default=[])[:count]


def _guesses(layers: Sequence[Layer], facts: ModelFacts, attending: Sequence[int]) -> list[str]:
    guesses = []
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    if facts.active_share is None and any(_EXPERTS.search(tensor.name) for tensor in tensors):
        guesses.append(
            "it looks like a mixture of experts, and no config.json says how many of them a token meets: all are "
            "counted as computing"
        )
    if facts.width is None or not attending:
        guesses.append("no config.json says how wide attention is in these layers: it is left out")
    if any(tensor.dtype in ("I32", "U8", "I8") and len(tensor.shape) > 1 for tensor in tensors):
        guesses.append("integer matrices are counted element by element; packed ones compute more than that")
    return guesses


def _is_block(layer: Layer) -> bool:
    return layer.name.rpartition(".")[2].isdigit()


def _is_head(layer: Layer) -> bool:
    return not _is_block(layer) and _HEAD.search(layer.name) is not None


def _is_table(tensor: TensorInfo) -> bool:
    return len(tensor.shape) == 2 and _TABLE.search(tensor.name) is not None


def _size(tensor: TensorInfo) -> int:
    return prod(tensor.shape)


def _number(config: Mapping[str, object], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST:
            return value
    return None
