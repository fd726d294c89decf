"""Tensors and layers are handed over while later ones arrive; the consumer owns them and may stop at any time."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import ExitStack

import pytest
import torch

import streamload
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.errors import DeviceError, StreamClosedError
from streamload.torch import _feed, _groups, _memory, iter_tensors, load_file, save_file, stream

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
    monkeypatch.setattr(_feed, "HOST_WINDOW_BYTES", 90_000)
    monkeypatch.setattr(_groups, "GROUP_BYTES", 30_000)
    monkeypatch.setattr(_feed, "GROUP_BYTES", 30_000)


FACES = {
    "stream": lambda checkpoint, **rest: stream(checkpoint, "cpu", **rest),
    "iter_tensors": lambda checkpoint, **rest: iter_tensors(checkpoint, "cpu", **rest),
}


@pytest.fixture(params=FACES.values(), ids=FACES.keys())
def start(request):
    """A function that starts one of the two faces on an open checkpoint."""
    return request.param


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
def test_a_failed_load_raises_the_same_error_at_every_step(start, path):
    device = HostDevice(fail_step="copy", fail_at=3, poison=True)
    with CopyEngine(device) as engine, streamload.open(path) as checkpoint:
        arrivals = start(checkpoint, engine=engine)
        with pytest.raises(DeviceError) as first:
            list(arrivals)
        for _ in range(3):
            with pytest.raises(DeviceError) as again:
                list(arrivals)
            assert str(again.value) == str(first.value)
        arrivals.close()
        with pytest.raises(StreamClosedError):
            next(arrivals)
        assert not checkpoint.closed


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.usefixtures("small_windows")
def test_after_an_interrupt_the_end_is_not_feigned(at, start, path, monkeypatch):
    waits = 0

    def current_stream(device):
        nonlocal waits
        waits += 1
        if waits == at + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(_feed, "current_stream", current_stream)
    with streamload.open(path) as checkpoint:
        arrivals = start(checkpoint)
        with pytest.raises(KeyboardInterrupt):
            list(arrivals)
        for _ in range(2):
            with pytest.raises(StreamClosedError, match="interrupt"):
                list(arrivals)


def test_an_interrupt_that_loses_an_item_does_not_go_on_with_the_next():
    class Items:
        def __init__(self):
            self.taken = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.taken += 1
            if self.taken == 2:  # the second item was taken, and the signal came before it was handed over
                raise KeyboardInterrupt
            return self.taken

    arrivals = _feed._Arrivals(None, Items(), ExitStack())
    assert next(arrivals) == 1
    with pytest.raises(KeyboardInterrupt):
        next(arrivals)
    with pytest.raises(StreamClosedError):
        next(arrivals)


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

    def watched_blocks(sizes):
        blocks = make_host_blocks(sizes)
        for block in blocks:
            made.append(1)
            weakref.finalize(block, freed.append, 1)
        return blocks

    make_host_blocks = _memory.make_host_blocks
    monkeypatch.setattr(_memory, "make_host_blocks", watched_blocks)
    most_alive = 0
    for _name, tensor in iter_tensors(path):
        del tensor
        gc.collect()
        most_alive = max(most_alive, len(made) - len(freed))
    assert len(made) >= 24
    assert most_alive <= 12  # two windows of three layers, two blocks each
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
