"""Rows of an embedding table are looked up in the file while the table is on its way."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

import streamload
from streamload._checkpoint import Checkpoint
from streamload.errors import ChangedError
from streamload.testing import FaultySource
from streamload.torch import _embedding, save_file, stream_module

ROWS, WIDTH = 512, 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(ROWS, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, ROWS)

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)))


@pytest.fixture(autouse=True)
def _small_tables_count(monkeypatch):
    monkeypatch.setattr(_embedding, "TABLE_BYTES", 1)


@pytest.fixture
def reference():
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def path(reference, tmp_path):
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def arriving(path, stalled_engine):
    """A module whose bytes do not come, and its load."""
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", engine=stalled_engine)
    yield module, loading
    loading.close()


IDS = {
    "one": torch.tensor([3]),
    "none twice": torch.tensor([[9, 3, 3], [ROWS - 1, 0, 1]]),
    "int32": torch.tensor([1, 2], dtype=torch.int32),
    "scalar": torch.tensor(7),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_rows_come_without_the_table(arriving, reference, ids, mode):
    module, loading = arriving
    with mode():
        rows = module.embed(ids)
    assert torch.equal(rows, reference.embed(ids))
    assert type(rows) is torch.Tensor
    assert loading.progress() < 1
    assert type(module.embed.weight).__name__.startswith("Arriving")


def test_the_table_travels_last(path, slow_engine, reference):
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", engine=slow_engine)
    assert loading.order == ("body", "head", "embed")
    with torch.no_grad():
        assert torch.equal(module(IDS["one"]), reference(IDS["one"]))
    loading.wait(60)
    assert loading.order == ("body", "head", "embed")
    assert torch.equal(module.embed.weight, reference.embed.weight)


def test_a_table_that_asks_for_a_gradient_is_waited_for(path, slow_engine, reference):
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", engine=slow_engine)
    module.embed(IDS["one"]).sum().backward()
    assert module.embed.weight.grad is not None
    loading.wait(60)


WAITED_FOR = {
    "many": lambda embed: embed(torch.arange(ROWS)),
    "max_norm": lambda embed: nn.functional.embedding(IDS["one"], embed.weight, max_norm=1e9),
    "empty": lambda embed: embed(torch.empty(0, dtype=torch.int64)),
}


@pytest.mark.parametrize("use", WAITED_FOR.values(), ids=WAITED_FOR.keys())
def test_what_is_no_plain_look_up_waits(path, slow_engine, reference, use):
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", engine=slow_engine)
    with torch.no_grad():
        assert torch.equal(use(module.embed), use(reference.embed))
    loading.wait(60)
    assert loading.order[0] == "embed"  # it was used


def test_an_id_out_of_range_is_torchs_error(path, slow_engine):
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", engine=slow_engine)
    with torch.no_grad(), pytest.raises(IndexError, match="out of range"):
        module.embed(torch.tensor([ROWS]))
    loading.wait(60)


def test_a_file_written_to_meanwhile_is_told(arriving, path):
    module, _ = arriving
    path.write_bytes(path.read_bytes())
    with torch.no_grad(), pytest.raises(ChangedError):  # of the table, or of what was read beside it
        module.embed(IDS["one"])


def test_a_source_of_ones_own_is_waited_for(path, slow_engine, reference):
    used = threading.Event()
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as opened:
        shards = [replace(shard, source=FaultySource(shard.source, hold={0: used})) for shard in opened.shards]
        checkpoint = Checkpoint(opened.url, shards, dict(opened))
        loading = stream_module(module, checkpoint, "cpu", engine=slow_engine)
        assert loading.order[0] == "embed"  # in its place
        used.set()
        with torch.no_grad():
            assert torch.equal(module(IDS["one"]), reference(IDS["one"]))
        loading.wait(60)


def test_rows_are_not_taken_unverified(path, reference, tmp_path):
    from streamload._verify import make_manifest

    make_manifest(path)
    with torch.device("meta"):
        module = Model()
    with streamload.open(path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", options=streamload.StreamOptions(verify=True))
    with torch.no_grad():
        assert torch.equal(module(IDS["one"]), reference(IDS["one"]))
    loading.wait(60)
    assert loading._load._rows.bytes_read == 0
