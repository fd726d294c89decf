"""Sleep and wake that are refused, cut off or done in odd places leave a module that wakes to the right bytes."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import streamload
from streamload.torch import _sleep, save_file, stream_module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]


def ids():
    return torch.arange(24).view(2, 12)


def start(module, path):
    with streamload.open(path) as checkpoint:
        return stream_module(module, checkpoint, "cpu")


def storage_bytes(module):
    return sum(tensor.untyped_storage().nbytes() for tensor in module.state_dict(keep_vars=True).values())


@pytest.fixture
def loaded(build, model_path):
    module = build("meta")
    loading = start(module, model_path)
    loading.wait(60)
    return module, loading


def test_a_stream_whose_tensors_another_has_filled_may_not_sleep(loaded, model_path, reference):
    module, first = loaded
    second = start(module, model_path)
    with pytest.raises(RuntimeError, match="written to"):
        first.sleep()  # it would take the memory from under the second, and wake to its own file
    second.wait(60)
    with pytest.raises(RuntimeError, match="written to"):
        first.sleep()
    second.sleep()
    second.wake()
    second.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def test_empty_tensors_wake_too(tmp_path):
    def make():
        module = nn.Linear(4, 2)
        module.register_parameter("none", nn.Parameter(torch.ones(0, 4)))
        module.register_buffer("nothing", torch.zeros(0))
        return module

    path = tmp_path / "empty.safetensors"
    save_file(make().state_dict(), path)
    with torch.device("meta"):
        module = make()
    loading = start(module, path)
    loading.wait(60)
    loading.sleep()
    loading.wake()
    loading.wait(60)
    assert [type(tensor) for tensor in (module.none, module.nothing)] == [nn.Parameter, torch.Tensor]
    assert module.none.sum() + module.nothing.sum() == 0


def test_a_wake_without_a_thread_to_be_had_sleeps_on(loaded, reference, monkeypatch):
    module, loading = loaded
    loading.sleep()
    begin = threading.Thread.start

    def refuse(thread):
        if thread.name == "streamload-watch":
            raise RuntimeError("can't start new thread")
        begin(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            loading.wake()
    assert loading.asleep
    with torch._C.DisableTorchFunctionSubclass():
        assert storage_bytes(module) == 0
    loading.wake()
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def test_a_sleep_that_is_interrupted_can_be_woken(loaded, reference, monkeypatch):
    module, loading = loaded
    hollow, made = _sleep._hollow, []

    def interrupt(*form: object):
        made.append(form)
        if len(made) == 3:
            raise KeyboardInterrupt
        return hollow(*form)

    with monkeypatch.context() as patched:
        patched.setattr(_sleep, "_hollow", interrupt)
        with pytest.raises(KeyboardInterrupt):
            loading.sleep()
    loading.wake()
    loading.wait(60)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))


def test_it_sleeps_and_wakes_in_inference_mode(build, model_path, reference):
    def is_right(module):
        state = reference.state_dict()
        return all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())

    module = build("meta")
    with torch.inference_mode():
        loading = start(module, model_path)
        loading.wait(60)
        loading.sleep()
        loading.wake()
        assert is_right(module)
        loading.wait(60)
    loading.sleep()
    loading.wake()
    with torch.no_grad():
        assert is_right(module)
    loading.wait(60)


def test_a_refused_sleep_leaves_the_order_as_it_was(build, model_path):
    module = build("meta")
    with streamload.open(model_path) as checkpoint:
        layers = stream_module(build("meta"), checkpoint, "cpu").order
        loading = stream_module(module, checkpoint, "cpu", order=layers[::-1])
    loading._load._used.update({1: None, 0: None})  # as if used in this order
    loading.wait(60)
    order = loading.order
    with torch.no_grad():
        module.norm.weight.add_(1)
    with pytest.raises(RuntimeError, match="written to"):
        loading.sleep()
    assert loading.order == order
    with torch.no_grad():
        module.norm.weight.sub_(1)
