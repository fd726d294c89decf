"""A Llama whose layers take as long as a slow accelerator would, without taking processors from those who copy.

Part of `_models`; needs torch. On the host, computing and copying share processors and their memory, which an
accelerator's do not, and the speed of shared processors changes by the second. Here each layer computes over the
prompt's last tokens only, truly, from its weights, and then sleeps for as long as an accelerator of so many operations
a second takes over all of them. What Python and the engine do between comes on top, as it does where a device waits
for its host.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ._llama import DecoderLayer, Llama, cast_to_checkpoint

if TYPE_CHECKING:
    from ..testing import LlamaShape

__all__ = ["COMPUTED_TOKENS", "build_paced_llama"]

COMPUTED_TOKENS = 2
"""Tokens of a prompt that are truly computed over: few, since for them the host's processors are needed."""

_OPERATIONS_PER_WEIGHT = 2  # and token: one multiplication, one addition


class _PacedLayer(DecoderLayer):
    """Compute over the tokens given, and sleep for those of the prompt."""

    def __init__(self, shape: LlamaShape, operations_per_second: float) -> None:
        super().__init__(shape)
        weights = sum(parameter.numel() for parameter in self.parameters())
        self.token_seconds = _OPERATIONS_PER_WEIGHT * weights / operations_per_second
        self.prompt_tokens = 0

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        result = super().forward(x, cos, sin)
        time.sleep(self.token_seconds * self.prompt_tokens)
        return result


class _PacedLlama(Llama):
    """Map token ids (batch, tokens) to the logits (batch, vocab) that follow the last few of them."""

    def __init__(self, shape: LlamaShape, operations_per_second: float) -> None:
        super().__init__(shape, lambda: _PacedLayer(shape, operations_per_second))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for layer in self.model.layers:
            if isinstance(layer, _PacedLayer):
                layer.prompt_tokens = tokens.shape[1]
        return super().forward(tokens[:, -COMPUTED_TOKENS:])


def build_paced_llama(shape: LlamaShape, operations_per_second: float) -> Llama:
    """Build the model on meta, in its checkpoint's dtype, ready for inference.

    Args:
        shape: Its dimensions.
        operations_per_second: Of the simulated accelerator: two for each weight of a layer and each token.
    """
    with torch.device("meta"):
        return cast_to_checkpoint(_PacedLlama(shape, operations_per_second), shape)
