"""A model computes while it is downloaded: over 100 MB/s and 20 ms, against downloading first, in the same run.

The marks that `streamload bench source` holds the library to are tighter; these leave room for a busy machine.
"""

from __future__ import annotations

import shutil

import pytest

from streamload.testing import LlamaShape, make_checkpoint

from ..servers.stores import slow_link

pytest.importorskip("torch")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.slow
BYTES_PER_SECOND, LATENCY_SECONDS = 100e6, 0.02
SHAPE = LlamaShape(layers=24, hidden=768, heads=12, kv_heads=4, intermediate=2048, vocab=1024, dtype="BF16")


@pytest.fixture(scope="module")
def served(nginx):
    folder = make_checkpoint(nginx.root / "slow-link", SHAPE, shards=4)
    yield nginx, folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("compute_part", [0.6, 1.5], ids=["link-bound", "compute-bound"])
def test_the_first_token_comes_with_the_last_byte(served, compute_part):
    from streamload.bench._source._first_token import Prompt, measure_first_token

    nginx, folder = served
    prompt = Prompt(SHAPE, tokens=512, compute_seconds=compute_part * SHAPE.nbytes / BYTES_PER_SECOND)
    with slow_link(nginx.url, bytes_per_second=BYTES_PER_SECOND, latency_seconds=LATENCY_SECONDS) as near:
        found = measure_first_token(f"{near}/{folder.name}", folder, prompt)
    assert found.nbytes / found.download < 1.05 * BYTES_PER_SECOND, "the link is faster than it should be"
    assert found.first_layer_part < 0.15, found
    assert found.ratio() < 1.3, found
    assert found.streamed < 0.85 * found.usual, found
