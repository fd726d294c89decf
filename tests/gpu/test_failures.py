"""What fails, fails as a typed error on every waiter, and leaves the device as it was."""

from __future__ import annotations

import gc
import os
import shutil

import pytest
import torch

from streamload._checkpoint import open as open_checkpoint
from streamload.errors import ChangedError, DeviceError, ShortReadError, SourceError, StreamClosedError
from streamload.testing import FaultySource
from streamload.torch import load_file, stream_module


@pytest.mark.parametrize("step", [0, 1, 5, 20])
def test_failed_read_reaches_the_forward_and_the_waiter(place, open_through, make_module, ids, step):
    def failing(number, source) -> FaultySource:
        fault = SourceError("the disk is gone", url=source.url, offset=0, nbytes=1, errno=5)
        return FaultySource(source, fail={step: fault} if number == 1 else {})

    module = make_module()
    with open_through(failing) as checkpoint, place.engine() as engine:
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        with pytest.raises(SourceError, match="the disk is gone"), torch.no_grad():
            module(ids.to(place.torch_device))
        with pytest.raises(SourceError, match="the disk is gone"):
            loading.wait(timeout=60)
        assert loading.ticket.failed
    with pytest.raises(SourceError), torch.no_grad():
        module(ids.to(place.torch_device))  # unusable for good, never half loaded


def test_short_read_is_named(place, open_through, make_module):
    with (
        open_through(lambda number, source: FaultySource(source, short={2: 0})) as checkpoint,
        place.engine() as engine,
    ):
        loading = stream_module(make_module(), checkpoint, place.torch_device, engine=engine)
        with pytest.raises(ShortReadError) as caught:
            loading.wait(timeout=60)
    assert caught.value.url
    assert caught.value.offset is not None


def test_file_cut_off_after_it_was_opened_is_noticed(place, checkpoint_path, make_module, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint_path, copy)
    with open_checkpoint(copy) as checkpoint, place.engine() as engine:
        os.truncate(sorted(copy.glob("*.safetensors"))[1], 5000)
        with pytest.raises((ChangedError, ShortReadError), match="00002"):
            stream_module(make_module(), checkpoint, place.torch_device, engine=engine).wait(timeout=60)


def test_cancelled_load_wakes_the_forward(place, open_through, make_module, ids):
    import threading

    gate = threading.Event()
    module = make_module()
    hold = dict.fromkeys(range(10_000), gate)
    with open_through(lambda number, source: FaultySource(source, hold=hold)) as checkpoint, place.engine() as engine:
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        loading.cancel()
        with pytest.raises(StreamClosedError), torch.no_grad():
            module(ids.to(place.torch_device))
        gate.set()
        loading.close()


# Python 3.12 and newer warn of any fork beside threads; that it is harmless here is what this shows.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_is_told_and_the_parent_goes_on(place, checkpoint_path, make_module, expected, same_bits):
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint, place.engine() as engine:
        loading = stream_module(module, checkpoint, place.torch_device, engine=engine)
        child = os.fork()
        if child == 0:
            try:
                loading.ticket.wait()
            except StreamClosedError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        loading.wait(timeout=60)
    assert all(same_bits(parameter, expected[name]) for name, parameter in module.named_parameters())


def test_device_that_does_not_exist_is_named(checkpoint_path):
    with pytest.raises(DeviceError, match="cuda:99"):
        load_file(next(checkpoint_path.glob("*.safetensors")), device="cuda:99")


@pytest.mark.needs_cuda
def test_out_of_device_memory_is_torchs_own_error_and_passes(checkpoint_path, make_module, expected, same_bits):
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (4 << 20)) / _total())
        with open_checkpoint(checkpoint_path) as checkpoint, pytest.raises(torch.OutOfMemoryError):
            stream_module(make_module(), checkpoint, "cuda:0")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    module = make_module()
    with open_checkpoint(checkpoint_path) as checkpoint:
        stream_module(module, checkpoint, "cuda:0").wait(timeout=60)
    assert all(same_bits(parameter, expected[name]) for name, parameter in module.named_parameters())


@pytest.mark.needs_cuda
def test_failed_load_gives_its_memory_back(open_through, make_module):
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        module = make_module()
        with open_through(lambda number, source: FaultySource(source, fail={3: OSError(5, "gone")})) as checkpoint:
            loading = stream_module(module, checkpoint, "cuda:0")
            with pytest.raises(SourceError):
                loading.wait(timeout=60)
        del module, loading
        gc.collect()  # tracebacks of the errors hold frames
    assert torch.cuda.memory_allocated() == before


def _total() -> int:
    return torch.cuda.get_device_properties(0).total_memory
