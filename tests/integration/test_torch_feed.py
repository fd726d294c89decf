"""Tensors and layers are handed over while later ones arrive; the consumer owns them and may stop at any time."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

import streamload
from streamload.errors import StreamClosedError
from streamload.torch import _feed, _groups, iter_tensors, load_file, save_file, stream

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]


@pytest.fixture
def path(tmp_path):
    """Twelve layers of 40 kB."""
    tensors = {}
    for layer in range(12):
        tensors[f"model.layers.{layer}.w"] = torch.full((100, 100), float(layer))
        tensors[f"model.layers.{layer}.norm"] = torch.full((10,), float(layer))
    tensors["lm_head.weight"] = torch.rand(50, 10)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def small_windows(monkeypatch):
    """Windows and groups so small that a feed has many."""
    monkeypatch.setattr(_feed, "WINDOW_BYTES", 90_000)
    monkeypatch.setattr(_groups, "GROUP_BYTES", 30_000)


def watch_threads():
    return [thread for thread in threading.enumerate() if "streamload" in thread.name]


@pytest.mark.usefixtures("small_windows")
def test_every_tensor_arrives_in_layer_order(path, slow_engine):
    expected = load_file(path)
    with streamload.open(path) as checkpoint:
        names = [info.name for layer in checkpoint.layers for info in layer.tensors]
        got = []
        for name, tensor in iter_tensors(checkpoint, engine=slow_engine):
            assert torch.equal(tensor, expected[name])
            got.append(name)
        assert got == names
        assert not checkpoint.closed


@pytest.mark.usefixtures("small_windows")
def test_layers_come_whole_and_in_order(path, slow_engine):
    expected = load_file(path)
    with streamload.open(path) as checkpoint, stream(checkpoint, "cpu", engine=slow_engine) as layers:
        kept = list(layers)
        assert [layer.name for layer in kept] == [layer.name for layer in checkpoint.layers]
        assert [set(layer.tensors) for layer in kept] == [
            {info.name for info in layer.tensors} for layer in checkpoint.layers
        ]
        assert all(torch.equal(tensor, expected[name]) for layer in kept for name, tensor in layer.tensors.items())
        assert next(layers, None) is None
        stats = layers.stats()
    assert stats.bytes_total == stats.bytes_read == stats.bytes_resident == checkpoint.nbytes
    assert layers.stats() == stats


def test_a_layer_arrives_before_the_last_byte(path, slow_engine):
    with streamload.open(path) as checkpoint, stream(checkpoint, "cpu", engine=slow_engine) as layers:
        first = next(layers)
        assert first.tensors["model.layers.0.w"].eq(0).all()
        assert layers.stats().bytes_resident < checkpoint.nbytes


def test_only_the_names_asked_for_are_read(path):
    with streamload.open(path) as checkpoint:
        names = ["lm_head.weight", "model.layers.3.norm"]
        got = dict(iter_tensors(checkpoint, names=iter(names)))
        assert set(got) == set(names)
        with pytest.raises(KeyError, match="lm_head"):
            iter_tensors(checkpoint, names=["lm_head.wight"])


@pytest.mark.parametrize("consume", [1, 2, 7])
@pytest.mark.usefixtures("small_windows")
def test_closing_early_cancels_and_keeps_what_was_taken(consume, path, stalled_engine, slow_engine):
    expected = load_file(path)
    feed = iter_tensors(path, engine=slow_engine)
    taken = [next(feed) for _ in range(consume)]
    feed.close()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in taken)
    iter_tensors(path, engine=stalled_engine).close()
    with streamload.open(path) as checkpoint:
        layers = stream(checkpoint, "cpu", engine=stalled_engine)
        for _ in range(2):
            layers.close()
        with pytest.raises(StreamClosedError):
            next(layers)


def test_closing_from_another_thread_wakes_the_one_that_waits(path, stalled_engine):
    raised = []

    def take(layers):
        try:
            next(layers)
        except StreamClosedError as error:
            raised.append(error)

    with streamload.open(path) as checkpoint:
        layers = stream(checkpoint, "cpu", engine=stalled_engine)
        waiter = threading.Thread(target=take, args=(layers,))
        waiter.start()
        layers.close()
        waiter.join(60)
    assert len(raised) == 1


@pytest.mark.usefixtures("small_windows")
def test_a_checkpoint_closed_under_the_feed_is_told(path):
    checkpoint = streamload.open(path)
    feed = iter_tensors(checkpoint)
    next(feed)
    checkpoint.close()
    with pytest.raises(StreamClosedError):
        list(feed)


@pytest.mark.usefixtures("small_windows")
def test_memory_is_the_consumers_and_goes_when_it_lets_go(path, monkeypatch):
    made, freed = [], []
    real = _feed.place

    class Block:  # dies with the last tensor over the block that it rides on
        def __del__(self):
            freed.append(1)

    def place(infos, device):
        placement = real(infos, device)
        for block in placement.blocks:
            block.rider = Block()
            made.append(1)
        return placement

    monkeypatch.setattr(_feed, "place", place)
    most_alive = 0
    for _name, tensor in iter_tensors(path):
        del tensor
        gc.collect()
        most_alive = max(most_alive, len(made) - len(freed))
    assert len(made) >= 12
    assert most_alive < 8  # two windows of three layers, each a group or two
    gc.collect()
    assert len(freed) == len(made)


def test_two_feeds_and_one_engine(path, slow_engine):
    with streamload.open(path) as checkpoint:
        pairs = zip(
            iter_tensors(checkpoint, engine=slow_engine), iter_tensors(checkpoint, engine=slow_engine), strict=True
        )
        for (one, left), (other, right) in pairs:
            assert one == other
            assert torch.equal(left, right)
            assert left.data_ptr() != right.data_ptr()


def test_a_file_without_tensors_gives_nothing(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    assert list(iter_tensors(tmp_path / "empty.safetensors")) == []
    with streamload.open(tmp_path / "empty.safetensors") as checkpoint, stream(checkpoint, "cpu") as layers:
        assert list(layers) == []
        assert layers.stats().bytes_total == 0


def test_mistakes_are_told_at_the_call_not_at_the_first_tensor(tmp_path):
    with pytest.raises(FileNotFoundError):
        iter_tensors(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="nonsense"):
        iter_tensors(tmp_path, "nonsense")
    assert not watch_threads()
