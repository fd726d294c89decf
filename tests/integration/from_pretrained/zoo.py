"""Tiny transformers models with random weights, by name: what they are made of, saved, and fed.

`zoo_text` and `zoo_other` hold the tables. Nothing here reaches the network.
"""

from __future__ import annotations

import warnings

import torch

from . import tiny
from .zoo_other import OTHER, other_inputs
from .zoo_text import TEXT, VOCABULARY, WITH_DECODER_INPUTS

ARCHITECTURES = TEXT | OTHER
# Saved in several files each. The limit is below the size of most of these models' embeddings.
SHARD_SIZE = "20KB"
SHARDED = frozenset(
    {"llama", "qwen3", "gemma2", "gpt2", "bloom", "gpt_oss", "mixtral", "deepseek_v3", "jamba"}
    | {"bert", "albert", "t5", "whisper", "clip", "resnet", "llava", "qwen2_vl"}
)
# Saved in these dtypes, which dtype="auto" keeps but where a model insists on float32 (deepseek_v3, ernie4_5_moe,
# t5); all others are saved in float32.
BFLOAT16 = frozenset(
    {"llama_tied", "qwen2", "qwen3", "gemma3_text", "gpt_oss", "mixtral", "olmoe", "deepseek_v3", "ernie4_5_moe"}
    | {"mamba2", "qwen3_next", "modernbert", "bart", "siglip", "wav2vec2", "llava"}
)
# What a version of transformers cannot load twice to the same, so that there is nothing to compare with.
BROKEN = {"recurrent_gemma": "leaves inv_freq uninitialised"} if tiny.VERSION.startswith("5.0.") else {}
DTYPES = {**dict.fromkeys(BFLOAT16, torch.bfloat16), "t5": torch.float16}


def build(name, *, seed=0):
    """Make a model in memory. No two of its tensors hold the same numbers, norms and biases included."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)  # transformers 4 decorates by it
        config, kind = ARCHITECTURES[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        _scatter(model)
    return model.to(DTYPES.get(name, torch.float32))


@torch.no_grad()
def _scatter(model):
    """Move every number that a file will have, since norms and biases start out all the same."""
    kept = set(model.state_dict())
    computed = set(model._keys_to_ignore_on_save or ())  # no file has them
    for key, parameter in model.named_parameters():
        if key not in computed:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for key, buffer in model.named_buffers():
        if key in kept and buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer), alpha=0.1)  # never below zero: some are variances


def save(name, directory, **chosen: object):
    """Save a model as its users find it on the hub: original names, several files for those in `SHARDED`.

    Args:
        name: A key of `ARCHITECTURES`.
        directory: Where to; created.
        chosen: Further keywords of `save_pretrained`, such as `save_original_format=False`, which keeps the
            model's own names and its experts merged.

    Returns:
        The model's class, whose `from_pretrained` reads the directory.
    """
    model = build(name)
    sharded = {"max_shard_size": SHARD_SIZE} if name in SHARDED else {}
    model.save_pretrained(directory, **(sharded | chosen))
    return type(model)


def inputs(name, *, seed=3, dtype=torch.float32):
    """What a model's forward takes, by keyword; the same for the same seed. What is no index is of `dtype`."""
    numbers = torch.Generator().manual_seed(seed)
    if name in OTHER:
        made = other_inputs(name, numbers)
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in made.items()}
    ids = {"input_ids": torch.randint(3, VOCABULARY, (2, 9), generator=numbers)}
    return {**ids, "decoder_input_ids": ids["input_ids"][:, :4]} if name in WITH_DECODER_INPUTS else ids
