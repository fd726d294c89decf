"""A Llama-shaped decoder in plain torch: the model that the demo and the benchmarks stream.

Part of `_models`. Module names equal the tensor names of the checkpoint. No buffers: the rotary angles are computed
in the forward, so a model built on the meta device lacks nothing but its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..testing import LlamaShape

__all__ = ["DecoderLayer", "Llama", "build_llama", "cast_to_checkpoint"]

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_ROTARY_BASE = 10_000.0


class _Attention(nn.Module):
    """Attend causally, with rotary positions and grouped key and value heads."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        kv_width = shape.kv_heads * shape.head_width
        self.head_width = shape.head_width
        self.queries_per_kv = shape.heads // shape.kv_heads
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_width, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, hidden) to the same shape; cos and sin are (tokens, head_width)."""
        query, key, value = (self._heads(part(x)) for part in (self.q_proj, self.k_proj, self.v_proj))
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        key = key.repeat_interleave(self.queries_per_kv, dim=1)
        value = value.repeat_interleave(self.queries_per_kv, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: torch.Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return result

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, -1, self.head_width).transpose(1, 2)


class _FeedForward(nn.Module):
    """Transform each token by itself, through a gate."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class DecoderLayer(nn.Module):
    """Add attention and feed-forward to the residual stream."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.mlp = _FeedForward(shape)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        result: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class _Decoder(nn.Module):
    """Embed tokens and run the layers over them."""

    def __init__(self, shape: LlamaShape, make_layer: Callable[[], DecoderLayer]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(make_layer() for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=1e-6)
        self.head_width = shape.head_width

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map token ids (batch, tokens) to the last position's state (batch, hidden)."""
        x = self.embed_tokens(tokens)
        cos, sin = _rotary(tokens.shape[1], self.head_width, x)
        for layer in self.layers:
            x = layer(x, cos, sin)
        result: torch.Tensor = self.norm(x[:, -1])
        return result


class Llama(nn.Module):
    """Map token ids (batch, tokens) to the next token's logits (batch, vocab)."""

    def __init__(self, shape: LlamaShape, make_layer: Callable[[], DecoderLayer] | None = None) -> None:
        super().__init__()
        self.model = _Decoder(shape, make_layer or (lambda: DecoderLayer(shape)))
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.lm_head(self.model(tokens))
        return result


def build_llama(shape: LlamaShape, device: torch.device | str = "meta") -> Llama:
    """Build the model in its checkpoint's dtype, ready for inference; on meta it has shapes and no memory."""
    with torch.device(device):
        return cast_to_checkpoint(Llama(shape), shape)


def cast_to_checkpoint(module: Llama, shape: LlamaShape) -> Llama:
    """Give a model its checkpoint's dtype and make it ready for inference."""
    return module.to(_DTYPES[shape.dtype]).requires_grad_(False).eval()


def _rotary(tokens: int, width: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    steps = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angles = torch.outer(torch.arange(tokens, device=like.device, dtype=torch.float32), _ROTARY_BASE**-steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
