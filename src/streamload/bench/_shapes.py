"""Write checkpoints of a mixture of experts: as many tensors as asked for, of one size.

Floor 6; needs torch and safetensors. The names are those of a transformers model, so layers are found in them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["OWN_BYTES", "expert_names", "make_moe_checkpoint"]

OWN_BYTES = 1 << 30
"""Bytes of the weights, at most; the same for every number of tensors, but for what does not divide."""

_EXPERTS = 128  # of a layer, as in Qwen3-30B-A3B
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_SHARDS = 4
_ROW = 64  # elements; BF16, so a tensor's bytes are a multiple of 128


def expert_names(count: int) -> Iterator[str]:
    """Yield the names of the first `count` expert weights, layer by layer."""
    for number in range(count):
        expert, projection = divmod(number, len(_PROJECTIONS))
        layer, expert = divmod(expert, _EXPERTS)
        yield f"model.layers.{layer}.mlp.experts.{expert}.{_PROJECTIONS[projection]}.weight"


def make_moe_checkpoint(
    directory: Path, tensors: int, *, nbytes: int = OWN_BYTES, progress: Callable[[int], object] = lambda _: None
) -> Path:
    """Write a checkpoint of random weights into a new directory, and return it.

    Args:
        directory: Where the files go.
        tensors: How many; each has the same size.
        nbytes: Bytes of all weights, at most.
        progress: Called with the number of bytes just written.

    Raises:
        OSError: The directory cannot be written, or is there.
    """
    directory.mkdir(parents=True)
    rows = max(nbytes // tensors // (2 * _ROW), 1)
    names = list(expert_names(tensors))
    random = torch.Generator().manual_seed(tensors)
    shards = min(_SHARDS, tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * tensors // shards : (shard + 1) * tensors // shards]
        block = torch.randint(-(1 << 15), 1 << 15, (len(part), rows, _ROW), dtype=torch.int16, generator=random)
        save_file(dict(zip(part, block.view(torch.bfloat16).unbind(), strict=True)), directory / file)
        weight_map |= dict.fromkeys(part, file)
        progress(block.nbytes)
    index = {"metadata": {"total_size": tensors * rows * _ROW * 2}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory
