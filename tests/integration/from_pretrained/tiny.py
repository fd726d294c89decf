"""One tiny model, saved in a moment, and what two loads of it must have in common."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import torch
import transformers

VERSION = transformers.__version__
TRANSFORMERS_4 = VERSION.startswith("4.")


class Picky(transformers.LlamaForCausalLM):
    """One that keeps some weights in float32, whatever is asked for: some are cast, some are not."""

    _keep_in_fp32_modules_strict: ClassVar = ["down_proj"]


def config(**changes: object):
    """The config of a Llama of 50,000 parameters."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaConfig(**{**sizes, "vocab_size": 64, "max_position_embeddings": 64, **changes})


def save(directory, kind=transformers.LlamaForCausalLM, *, shard="50GB", **changes: object):
    """Save a tiny model whose tensors are in `dtype` bfloat16, and return the directory as text."""
    torch.manual_seed(0)
    kind(config(**changes)).to(torch.bfloat16).save_pretrained(directory, max_shard_size=shard)
    return str(directory)


def assert_equal(model, other):
    """Check that two models hold the same, name by name and bit by bit, and that it is numbers."""
    assert type(model) is type(other)
    mine, theirs = model.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
        assert not tensor.isnan().any(), name
    assert not [name for name, tensor in model.named_parameters() if tensor.is_meta]


def cached(root, saved, name="someone/model", revision="main"):
    """Put a model into a hub cache, as if it had been downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = root / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(Path(saved).iterdir())):
        shutil.copy(file, repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:040x}")
    return name
