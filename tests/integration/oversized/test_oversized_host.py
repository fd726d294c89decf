"""Weights kept in page-locked host memory: as many as were allowed, read once, never copied back."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from streamload._native import HostDevice, NativeError
from streamload.errors import StreamClosedError
from streamload.torch._host_copies import Pages

from .shared import Stack, ids, on_meta, run, streamed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

PAGE = 4096
UNITS = 7  # of the stack, at its least budget: the embedding and six blocks


class CountingDevice:
    """A host device that counts what is page-locked, and refuses from a number on."""

    def __new__(cls, refuse_from=None):
        class Device(HostDevice):
            def pin(self, address, nbytes):
                if refuse_from is not None and self.pins >= refuse_from and threading.current_thread().name == NAME:
                    raise NativeError("out_of_pinned_memory")
                super().pin(address, nbytes)
                if threading.current_thread().name == NAME:
                    self.pins += 1
                    self.locked[address] = nbytes

            def unpin(self, address, nbytes):
                super().unpin(address, nbytes)
                if address in self.locked:
                    assert self.locked.pop(address) == nbytes

        device = Device(poison=True, staged=True)
        device.pins, device.locked = 0, {}
        return device


NAME = "streamload-host"


def kept(loading):
    """Wait until the thread has kept what it could."""
    copies = loading._streamed()._copies
    copies.join()
    return copies


def test_later_passes_read_nothing_when_all_fits(stack):
    reference, path, least = stack
    module = on_meta(Stack)
    device = CountingDevice()
    loading = streamed(module, path, least, device=device, host_memory=1 << 20)
    assert kept(loading).nbytes == sum(device.locked.values()) <= 1 << 20
    for _ in range(2):  # what was on its way before it was kept
        assert torch.equal(run(module, ids()), run(reference, ids()))
    before = loading.rotation_stats()
    for _ in range(5):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    after = loading.rotation_stats()
    assert after.bytes_read == before.bytes_read
    streamed_bytes = after.bytes_streamed - before.bytes_streamed
    assert streamed_bytes == after.bytes_from_host - before.bytes_from_host
    assert abs(streamed_bytes - 5 * loading.streamed_bytes) <= loading.streamed_bytes // 2
    loading.close()
    assert device.locked == {}


@pytest.mark.parametrize("units", [0, 1, 3, 6])
def test_never_more_bytes_than_allowed_and_the_rest_comes_from_the_file(stack, units):
    reference, path, least = stack
    module = on_meta(Stack)
    device = CountingDevice()
    sizes = [12288] + [-(-38144 // PAGE) * PAGE] * (UNITS - 1)
    allowed = sum(sizes[:units]) + PAGE - 1
    loading = streamed(module, path, least, device=device, host_memory=allowed)
    copies = kept(loading)
    assert sum(device.locked.values()) == copies.nbytes == sum(sizes[:units]) <= allowed
    for _ in range(5):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    stats = loading.rotation_stats()
    assert (stats.bytes_from_host > 0) == (units > 0)
    assert stats.bytes_read > 0
    assert stats.bytes_read + stats.bytes_from_host == stats.bytes_streamed
    loading.close()
    assert device.locked == {}


def test_a_refused_page_lock_ends_it_with_one_warning(stack, caplog):
    reference, path, least = stack
    module = on_meta(Stack)
    device = CountingDevice(refuse_from=2)
    loading = streamed(module, path, least, device=device, host_memory=1 << 20)
    kept(loading)
    assert len(device.locked) == 2
    for _ in range(5):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "page-locked" in warnings[0].getMessage()
    loading.close()
    assert device.locked == {}


def test_dropping_the_module_unlocks_the_memory(stack, own_threads):
    _, path, least = stack
    module = on_meta(Stack)
    device = CountingDevice()
    loading = streamed(module, path, least, device=device, host_memory=1 << 20)
    kept(loading)
    loading.wait(60)
    assert device.locked
    del module
    gc.collect()
    assert device.locked == {}
    assert NAME not in own_threads()


def test_closing_in_the_middle_leaves_nothing(stack, monkeypatch, own_threads):
    _, path, least = stack
    locked, go_on = threading.Event(), threading.Event()
    pin = Pages.pin

    def slow_pin(pages, device):
        locked.set()
        assert go_on.wait(60)
        pin(pages, device)

    monkeypatch.setattr(Pages, "pin", slow_pin)
    module = on_meta(Stack)
    device = CountingDevice()
    loading = streamed(module, path, least, device=device, host_memory=1 << 20)
    assert locked.wait(60)
    loading.cancel()
    go_on.set()
    loading.close()
    assert device.locked == {}
    assert NAME not in own_threads()
    with pytest.raises(StreamClosedError):
        run(module, ids())
