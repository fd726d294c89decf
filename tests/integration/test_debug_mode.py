"""Debug mode: wrong orders show, right ones give right bytes."""

from __future__ import annotations

import pytest
import torch

import streamload
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.torch import iter_tensors, load_file, stream_module

pytestmark = pytest.mark.slow

DEBUG = streamload.StreamOptions(debug=True)


@pytest.fixture(autouse=True)
def _one_path_through_attention():
    """The fused one wants tensors without a gate, and rounds otherwise."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def test_memory_holds_no_number_before_its_bytes_arrive(build, model_path):
    module = build("meta")
    with CopyEngine(HostDevice(link_bytes_per_second=5e3), DEBUG) as engine:
        with streamload.open(model_path) as checkpoint:
            loading = stream_module(module, checkpoint, "cpu", engine=engine)
        with torch._C.DisableTorchFunctionSubclass():
            assert module.rnn.weight_hh_l0.isnan().all()
        loading.close()


def test_a_load_in_debug_mode_is_right(build, reference, model_path):
    module = build("meta")
    with streamload.open(model_path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu", options=DEBUG)
    with torch.no_grad():
        assert torch.equal(module(torch.arange(24).view(2, 12)), reference(torch.arange(24).view(2, 12)))
    loading.wait(60)
    plain = load_file(model_path)
    for name, tensor in iter_tensors(model_path, options=DEBUG):
        assert torch.equal(tensor, plain[name])
