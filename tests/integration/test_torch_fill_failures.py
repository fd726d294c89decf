"""A fill that fails or is cut off: a typed error, no thread and no byte on its way left behind."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

import pytest
import torch

import streamload
from streamload import StreamOptions
from streamload._checkpoint import Checkpoint
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.errors import ChangedError, DeviceError, ShortReadError, SourceError, StreamClosedError
from streamload.testing import FaultySource
from streamload.torch import fill, load_file, load_model, save_file

pytestmark = pytest.mark.slow

SMALL = StreamOptions(chunk_bytes=64 << 10, staging_bytes=256 << 10, read_threads=2)
STEPS = ("copy", "record", "create_event", "create_stream", "pin", "query", "synchronize")


@pytest.fixture
def path(tmp_path):
    save_file({"a": torch.rand(300, 400), "b": torch.rand(300, 400)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def places():
    """One tensor that bytes go straight into, one that they are cast into."""
    return {"a": torch.zeros(300, 400), "b": torch.zeros(300, 400, dtype=torch.float64)}


def with_source(checkpoint, wrap):
    (shard,) = checkpoint.shards
    return Checkpoint(checkpoint.url, [replace(shard, source=wrap(shard.source))], dict(checkpoint))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("at", range(4))
def test_a_device_that_fails_at_step_k_is_told_or_all_is_there(step, at, path, own_threads):
    device = HostDevice(fail_step=step, fail_at=at, fail_from=True, poison=True)
    tensors = places()
    with CopyEngine(device, SMALL) as engine:
        try:
            fill(path, tensors, engine=engine)
        except DeviceError:
            pass
        else:
            assert all(torch.equal(tensor.float(), load_file(path)[name]) for name, tensor in tensors.items())
    assert not own_threads()


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("kind", ["error", "short"])
def test_a_read_that_fails_says_where(at, kind, path, own_threads):
    fault = {"fail": {at: OSError(5, "broken")}} if kind == "error" else {"short": dict.fromkeys(range(at, 99), 0)}
    with CopyEngine(HostDevice(poison=True), SMALL) as engine, streamload.open(path) as opened:
        checkpoint = with_source(opened, lambda source: FaultySource(source, **fault))
        with pytest.raises(SourceError if kind == "error" else ShortReadError) as caught:
            fill(checkpoint, places(), engine=engine)
        assert caught.value.url == str(path)
        assert caught.value.offset is not None
    assert not own_threads()


@pytest.mark.parametrize("cut", [100, 400_000, 900_000])
def test_a_file_that_was_truncated_is_told(cut, path):
    with streamload.open(path) as checkpoint:
        with path.open("r+b") as file:
            file.truncate(cut)
        with pytest.raises((ShortReadError, ChangedError)):
            fill(checkpoint, places())


def test_a_closed_checkpoint_is_told(path):
    with streamload.open(path) as checkpoint:
        pass
    tensors = places()
    with pytest.raises(StreamClosedError):
        fill(checkpoint, tensors)
    assert all(tensor.eq(0).all() for tensor in tensors.values())


def test_an_engine_closed_by_another_thread_ends_the_fill(path, own_threads):
    held, reading = threading.Event(), threading.Event()

    class Source(FaultySource):
        def read_into(self, offset, buffer):
            reading.set()
            return super().read_into(offset, buffer)

    raised = []

    def run():
        try:
            fill(checkpoint, places(), engine=engine)
        except StreamClosedError as error:
            raised.append(error)

    with CopyEngine(HostDevice(), SMALL) as engine, streamload.open(path) as opened:
        checkpoint = with_source(opened, lambda source: Source(source, hold=dict.fromkeys(range(99), held)))
        waiter = threading.Thread(target=run)
        waiter.start()
        assert reading.wait(60)
        closer = threading.Thread(target=engine.close)
        closer.start()
        held.set()
        closer.join(60)
        waiter.join(60)
    assert len(raised) == 1
    assert not own_threads()


def test_an_interrupt_cancels_the_fill(path, own_threads, stalled_engine):
    began = threading.Event()
    ticket_made = stalled_engine.submit

    def submit(*arguments: object, **rest: object):
        ticket = ticket_made(*arguments, **rest)
        began.set()
        return ticket

    stalled_engine.submit = submit

    def interrupt():
        began.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fill(path, places(), engine=stalled_engine)
    thread.join(60)
    del stalled_engine.submit
    stalled_engine.close()
    assert not own_threads()


def test_a_model_whose_file_fails_is_told(path):
    model = torch.nn.Module()
    model.register_buffer("a", torch.zeros(300, 400))
    model.register_buffer("b", torch.zeros(300, 400))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="bytes"):
        load_model(model, path)
