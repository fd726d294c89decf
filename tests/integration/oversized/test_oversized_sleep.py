"""An oversized module sleeps and wakes as any other: same objects, same bytes, nothing left."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import streamload
from streamload.errors import ChangedError, StreamClosedError
from streamload.torch import save_file, stream_module

pytestmark = pytest.mark.slow


def storage_bytes(module):
    return sum(tensor.untyped_storage().nbytes() for tensor in module.state_dict(keep_vars=True).values())


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count(folder):
    return len(list(Path(folder).iterdir()))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def oversized(tmp_path):
    """A module half of whose weights pass through slots, its load, and what it computes."""
    torch.manual_seed(0)
    usual = Blocks()
    save_file(usual.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        module = Blocks()
    one = sum(tensor.nbytes for tensor in usual.layers[0].parameters())
    options = streamload.StreamOptions(device_memory=4 * one + 4096)
    with streamload.open(tmp_path / "model.safetensors") as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", options=options)
    with torch.no_grad():
        yield module, loading, usual(torch.ones(1, 64))
    loading.close()


def test_an_oversized_module_sleeps_and_wakes(oversized):
    module, loading, expected = oversized
    tensors = dict(module.state_dict(keep_vars=True))
    for _ in range(3):
        before = loading.rotation_stats()
        assert before is not None
        for _ in range(2):
            assert torch.equal(module(torch.ones(1, 64)), expected)
        assert loading.rotation_stats().bytes_streamed >= 2 * loading.streamed_bytes
        loading.sleep()
        assert loading.rotation_stats() is None
        assert "forward" not in vars(module)
        with pytest.raises(StreamClosedError, match=r"wake\(\)"):
            module(torch.ones(1, 64))
        with torch._C.DisableTorchFunctionSubclass():
            assert storage_bytes(module) == 0
        loading.wake()
    loading.wait(60)
    assert torch.equal(module(torch.ones(1, 64)), expected)
    assert all(tensors[name] is tensor for name, tensor in module.state_dict(keep_vars=True).items())


def test_a_hundred_nights_of_an_oversized_module_leave_no_trace(oversized):
    module, loading, expected = oversized
    seen = []
    for night in range(100):
        loading.sleep()
        loading.wake()
        assert torch.equal(module(torch.ones(1, 64)), expected)
        loading.wait(60)
        if night in (9, 99):
            gc.collect()
            seen.append((count("/proc/self/task"), count("/proc/self/fd"), resident_bytes()))
    early, late = seen
    assert late[1] <= early[1]
    assert late[0] <= early[0]
    assert late[2] - early[2] < 4 << 20


def test_an_oversized_module_that_cannot_wake_sleeps_on(oversized, tmp_path):
    module, loading, expected = oversized
    file = tmp_path / "model.safetensors"
    stat = file.stat()
    loading.sleep()
    file.write_bytes(file.read_bytes())
    with pytest.raises(ChangedError):
        loading.wake()
    assert loading.asleep
    with pytest.raises(StreamClosedError, match=r"wake\(\)"):
        module(torch.ones(1, 64))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    loading.wake()
    assert torch.equal(module(torch.ones(1, 64)), expected)
