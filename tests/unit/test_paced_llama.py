"""The Llama that takes a simulated accelerator's time: truly computed, and as slow as its prompt is long."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from streamload._models import load_plainly, own_subject  # noqa: E402 - needs torch
from streamload._models._accelerator import COMPUTED_TOKENS  # noqa: E402 - needs torch
from streamload.testing import LlamaShape, make_checkpoint  # noqa: E402 - after the skip

SHAPE = LlamaShape(layers=3, hidden=32, heads=2, kv_heads=1, intermediate=48, vocab=64)
OPERATIONS = 1e6


@pytest.fixture
def slept(monkeypatch):
    """Seconds of every sleep, none of which is slept."""
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.fixture
def path(tmp_path):
    """A checkpoint of the shape."""
    return make_checkpoint(tmp_path / "checkpoint", SHAPE)


def test_each_layer_sleeps_for_two_operations_a_weight_and_token(path, slept):
    subject = own_subject(path, SHAPE, 10, OPERATIONS)
    module = load_plainly(subject, "cpu")
    subject.compute(module, subject.prompt("cpu"))
    weights = sum(parameter.numel() for parameter in module.model.layers[0].parameters())
    assert slept == pytest.approx([2 * weights * 10 / OPERATIONS] * SHAPE.layers)


def test_last_tokens_are_computed_as_by_the_plain_model(path, slept):
    paced, plain = (own_subject(path, SHAPE, 10, speed) for speed in (OPERATIONS, None))
    ids = plain.prompt("cpu")
    found = paced.compute(load_plainly(paced, "cpu"), ids)
    assert torch.equal(found, plain.compute(load_plainly(plain, "cpu"), ids[:, -COMPUTED_TOKENS:]))
    assert len(slept) == SHAPE.layers


def test_another_weight_gives_another_output(path, slept):
    subject = own_subject(path, SHAPE, 10, OPERATIONS)
    module = load_plainly(subject, "cpu")
    before = subject.compute(module, subject.prompt("cpu"))
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[0] += 1
    assert not torch.equal(before, subject.compute(module, subject.prompt("cpu")))
    assert len(slept) == 2 * SHAPE.layers
