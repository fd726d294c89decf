"""Real models compute and generate while their weights arrive, bit for bit what they give loaded the usual way."""

from __future__ import annotations

import contextlib

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

NAMES = ("llama", "llama-tied", "qwen3-moe", "t5", "gpt2", "vit")
DECODERS = tuple(name for name in NAMES if name != "vit")

MODES = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def generate(model, inputs, cache):
    """Greedy tokens with the logits that chose them, so that a wrong bit shows."""
    return model.generate(
        input_ids=inputs["input_ids"],
        max_new_tokens=4,
        do_sample=False,
        use_cache=True,
        cache_implementation=cache,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_forward(name, attention, models, start_held, assert_same, leftovers):
    model, inputs = models.empty(name, attn_implementation=attention), models.inputs(name)
    loading = start_held(model, models.directory(name))
    with torch.no_grad():
        first = model(**inputs)
        loading.wait(60)
        second = model(**inputs)
        expected = models.stock(name, attn_implementation=attention)(**inputs)
    assert_same(first, expected)
    assert_same(second, expected)
    assert not leftovers(model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_generate(name, cache, attention, models, start_held, assert_same, leftovers):
    model, inputs = models.empty(name, attn_implementation=attention), models.inputs(name)
    loading = start_held(model, models.directory(name))
    got = generate(model, inputs, cache)
    loading.wait(60)
    expected = generate(models.stock(name, attn_implementation=attention), inputs, cache)
    assert_same([got.sequences, got.logits], [expected.sequences, expected.logits])
    assert not leftovers(model)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("name", ["llama-tied", "t5", "vit"])
def test_forward_in_every_mode(name, mode, models, start_held, assert_same):
    model, inputs = models.empty(name), models.inputs(name)
    loading = start_held(model, models.directory(name))
    with mode():
        got = model(**inputs)
    loading.wait(60)
    with mode():
        expected = models.stock(name)(**inputs)
        assert_same(model(**inputs), expected)
    assert_same(got, expected)


@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_a_backward_in_flight_gives_the_same_gradients(name, models, start_held, assert_same):
    model, inputs = models.empty(name), models.inputs(name)
    loading = start_held(model, models.directory(name))
    model(**inputs).logits.square().mean().backward()
    loading.wait(60)
    stock = models.stock(name)
    stock(**inputs).logits.square().mean().backward()
    assert_same([p.grad for p in model.parameters()], [p.grad for p in stock.parameters()])


def test_a_model_in_bfloat16(models, start_held, assert_same, tmp_path):
    models.stock("llama", dtype=torch.bfloat16).save_pretrained(tmp_path)
    model, inputs = models.empty("llama", dtype=torch.bfloat16), models.inputs("llama")
    loading = start_held(model, tmp_path)
    with torch.no_grad():
        got = model(**inputs)
        loading.wait(60)
        assert_same(got, models.stock("llama", dtype=torch.bfloat16)(**inputs))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
