"""A module sleeps without device memory and wakes to the same objects and bytes."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import streamload
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.errors import ChangedError, StreamClosedError
from streamload.torch import save_file, stream_module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]


def ids():
    return torch.arange(24).view(2, 12)


def start(module, path, engine=None):
    with streamload.open(path) as checkpoint:
        return stream_module(module, checkpoint, "cpu", engine=engine)


def storage_bytes(module):
    return sum(tensor.untyped_storage().nbytes() for tensor in module.state_dict(keep_vars=True).values())


@pytest.fixture
def loaded(build, model_path):
    module = build("meta")
    loading = start(module, model_path)
    loading.wait(60)
    return module, loading


def test_sleep_frees_the_memory_and_keeps_the_objects(loaded, reference):
    module, loading = loaded
    before = dict(module.state_dict(keep_vars=True))
    loading.sleep()
    assert loading.asleep
    assert loading.progress() == 0.0
    assert "asleep" in repr(loading)
    after = module.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in before.items())
    with torch._C.DisableTorchFunctionSubclass():
        assert storage_bytes(module) == 0
    for name, tensor in after.items():
        like = reference.state_dict()[name]
        assert (tensor.shape, tensor.dtype, tensor.device, tensor.stride()) == (
            like.shape,
            like.dtype,
            like.device,
            like.stride(),
        )


@pytest.mark.parametrize(
    "use",
    [
        lambda module: module(ids()),
        lambda module: module.state_dict(),
        lambda module: module.norm.weight.sum(),
        lambda module: module.embed.weight.data_ptr(),
        lambda module: module.half(),
        lambda module: module.embed(ids()),
    ],
    ids=["forward", "state_dict", "sum", "data_ptr", "half", "embedding"],
)
def test_a_sleeping_module_raises_at_use(loaded, use):
    module, loading = loaded
    loading.sleep()
    with torch.no_grad(), pytest.raises(StreamClosedError, match=r"call wake\(\)"):
        use(module)
    with pytest.raises(StreamClosedError, match=r"wake\(\)"):
        loading.wait()


def test_waking_is_overlapped_and_leaves_nothing(build, reference, model_path, slow_engine):
    module = build("meta")
    loading = start(module, model_path, slow_engine)
    loading.wait(60)
    tensors = dict(module.state_dict(keep_vars=True))
    loading.sleep()
    loading.wake()
    assert not loading.asleep
    assert not loading.done
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))
    loading.wait(60)
    assert loading.stats().bytes_read == loading.stats().bytes_total
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert tensor is tensors[name]
        assert type(tensor) in (nn.Parameter, torch.Tensor)
        assert tensor.__dict__ == {}
        assert torch.equal(tensor, reference.state_dict()[name])
    assert module.head.weight is module.embed.weight


def test_a_device_that_is_full_can_still_put_it_to_sleep(loaded, reference, monkeypatch):
    module, loading = loaded

    def refuse(*args: object, **kwargs: object):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty_strided", refuse)
        loading.sleep()
    with torch._C.DisableTorchFunctionSubclass():
        assert storage_bytes(module) < 1000
        assert module.rnn.weight_hh_l0.isnan().all()
    assert module.rnn.weight_hh_l0.shape == reference.rnn.weight_hh_l0.shape
    loading.wake()
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))
    assert module.rnn.weight_hh_l0.is_contiguous()


def test_sleeping_and_waking_twice_is_once(loaded, reference):
    module, loading = loaded
    loading.sleep()
    loading.sleep()
    loading.wake()
    ticket = loading.ticket
    loading.wake()  # under way, or done
    assert loading.ticket is ticket
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count(folder):
    return len(list(Path(folder).iterdir()))


def test_a_hundred_nights_leave_no_trace(tmp_path):
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = model(torch.ones(1, 1024))
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    loading = start(module, tmp_path / "model.safetensors")
    seen = []
    for night in range(100):
        loading.sleep()
        loading.wake()
        with torch.no_grad():
            assert torch.equal(module(torch.ones(1, 1024)), expected)
        loading.wait(60)
        if night in (9, 99):
            gc.collect()
            threads = [thread.name for thread in threading.enumerate() if "streamload" in thread.name]
            seen.append((resident_bytes(), count("/proc/self/task"), count("/proc/self/fd"), threads))
    early, late = seen
    assert late[1:] == early[1:]
    assert late[0] - early[0] < 16 << 20  # two copies of the weights, of the ninety that could have been left


CHANGES = {
    "written to": lambda module: module.norm.weight.mul_(2),
    "converted": lambda module: module.norm.half(),
    "replaced": lambda module: setattr(module.norm, "weight", nn.Parameter(torch.ones(48))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_is_no_longer_as_loaded_does_not_sleep(loaded, change):
    module, loading = loaded
    with torch.no_grad():
        change(module)
        kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"norm\.(weight|bias)"):
        loading.sleep()
    assert not loading.asleep
    assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())


def test_a_file_that_changed_overnight_is_told_and_the_module_sleeps_on(loaded, model_path, reference):
    module, loading = loaded
    content = model_path.read_bytes()
    stat = model_path.stat()
    loading.sleep()
    model_path.write_bytes(content)
    with pytest.raises(ChangedError):
        loading.wake()
    assert loading.asleep
    with pytest.raises(StreamClosedError):
        module(ids())
    os.utime(model_path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as it was
    loading.wake()
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def test_a_file_that_is_gone_is_told(loaded, model_path):
    _, loading = loaded
    loading.sleep()
    model_path.rename(model_path.with_suffix(".away"))
    with pytest.raises(FileNotFoundError):
        loading.wake()
    model_path.with_suffix(".away").rename(model_path)
    loading.wake()
    loading.wait(60)


def test_sleep_in_flight_cancels_and_wake_begins_anew(build, reference, model_path):
    module = build("meta")
    with CopyEngine(HostDevice(link_bytes_per_second=5e3)) as engine:
        loading = start(module, model_path, engine)
        loading.sleep()
        assert loading.asleep
        loading.wake()
        loading.cancel()  # too slow to wait for
        with pytest.raises(StreamClosedError, match="cancelled"):
            loading.wait(60)
        loading.sleep()
    with pytest.raises(StreamClosedError, match="engine"):
        loading.wake()
    again = start(module, model_path)
    again.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def test_a_failed_load_is_loaded_again_by_wake(build, reference, model_path):
    module = build("meta")
    loading = start(module, model_path, None)
    loading.cancel()
    loading.close()
    with streamload.open(model_path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu")
    loading.cancel()
    loading.wake()
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def test_of_two_streams_of_a_sleeping_module_one_wakes_it(loaded, model_path, reference):
    module, first = loaded
    first.sleep()
    tensors = dict(module.state_dict(keep_vars=True))
    second = start(module, model_path)
    with pytest.raises(RuntimeError, match="another stream"):
        first.wake()
    second.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))
    assert all(tensors[name] is tensor for name, tensor in module.state_dict(keep_vars=True).items())


def test_closed_is_closed(loaded):
    _, loading = loaded
    loading.close()
    for use in (loading.sleep, loading.wake):
        with pytest.raises(StreamClosedError, match="closed"):
            use()


def test_a_module_that_is_gone_needs_no_bed(loaded):
    module, loading = loaded
    del module
    gc.collect()
    loading.sleep()
    loading.wake()
    loading.wait(60)
    assert loading.stats().bytes_total in (0, loading.stats().bytes_read)


def test_waking_takes_the_order_of_use(build, model_path, slow_engine):
    module = build("meta")
    loading = start(module, model_path, slow_engine)
    module.norm.weight.sum()
    loading.wait(60)
    assert loading.order[0] == "norm"
    loading.sleep()
    loading.wake()
    loading.wait(60)
    with streamload.open(model_path) as checkpoint:
        first = checkpoint["norm.weight"]
    chunks = [chunk for chunk in loading.ticket.trace() if chunk.group == 0]
    assert any(chunk.offset <= first.start < chunk.offset + chunk.nbytes for chunk in chunks)


def test_a_remembered_order_comes_first(build, model_path, stalled_engine):
    module = build("meta")
    with streamload.open(model_path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", order=["rnn", "norm"], engine=stalled_engine)
    assert loading.order[:2] == ("rnn", "norm")
    assert len(loading.order) == len(set(loading.order)) > 2
    loading.close()


@pytest.mark.parametrize(
    ("order", "error", "says"),
    [(["nrm"], ValueError, "nearest: 'norm'"), ("norm", TypeError, "a sequence of layers' names")],
)
def test_an_order_that_would_be_ignored_is_refused(build, model_path, order, error, says):
    with streamload.open(model_path) as checkpoint, pytest.raises(error, match=says):
        stream_module(build("meta"), checkpoint, "cpu", order=order)


@pytest.mark.parametrize("load", [streamload.torch.load_file, streamload.torch.iter_tensors])
def test_a_limit_of_device_memory_that_would_be_ignored_is_refused(model_path, load):
    with pytest.raises(ValueError, match="device_memory is for stream_module"):
        load(model_path, device="cpu", options=streamload.StreamOptions(device_memory=1))


def test_a_load_closed_early_says_so(build, model_path, stalled_engine):
    module = build("meta")
    with start(module, model_path, stalled_engine) as loading:
        pass
    assert "closed" in repr(loading)
    with pytest.raises(StreamClosedError, match="closed before all was resident"):
        module(ids())
