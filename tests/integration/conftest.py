"""What the torch tests share: a small model, its file, slow links, and fresh memory that is never right by chance."""

from __future__ import annotations

import ctypes

import pytest

LINK_BYTES_PER_SECOND = 4e6  # the model below takes 0.1 s


@pytest.fixture
def nan_memory(monkeypatch):
    """Fill what torch allocates, and new host blocks, with 0xFF bytes, which read as NaN: too early a read shows.

    And let torch take one path through attention, in flight or not: its fused one wants tensors without a gate.
    """
    import torch

    from streamload.torch import _memory

    class FilledBlock(_memory.HostBlock):
        def __init__(self, nbytes):
            super().__init__(nbytes)
            ctypes.memset(self.address, 0xFF, nbytes)

    monkeypatch.setattr(_memory, "HostBlock", FilledBlock)

    torch.backends.mha.set_fastpath_enabled(False)

    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(8, dtype=torch.uint8).view(torch.float32).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.fixture
def slow_engine():
    """A copy engine over a paced link that spoils what it lets go of."""
    from streamload._engine import CopyEngine
    from streamload._native import HostDevice

    device = HostDevice(link_bytes_per_second=LINK_BYTES_PER_SECOND, poison=True)
    with CopyEngine(device) as engine:
        yield engine


@pytest.fixture
def stalled_engine():
    """A copy engine over a link so slow that the model below is in flight until the load is cancelled."""
    from streamload._engine import CopyEngine
    from streamload._native import HostDevice

    with CopyEngine(HostDevice(link_bytes_per_second=5e3, poison=True)) as engine:
        yield engine


@pytest.fixture
def build():
    """A function that makes the model, real or on meta: tied weights, buffers, a norm, an RNN, attention."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(64, 48)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True) for _ in range(3)
            )
            self.rnn = nn.GRU(48, 48, batch_first=True)
            self.norm = nn.BatchNorm1d(48)
            self.head = nn.Linear(48, 64, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            hidden = self.embed(ids)
            for layer in self.layers:
                hidden = layer(hidden)
            hidden, _ = self.rnn(hidden)
            return self.head(self.norm(hidden.transpose(1, 2)).transpose(1, 2))

    def make(device="cpu"):
        with torch.device(device):
            return Model().eval()

    return make


@pytest.fixture
def reference(build):
    """The model the usual way, with numbers from a fixed seed."""
    import torch

    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.01, 0.2)
    return model


@pytest.fixture
def model_path(reference, tmp_path):
    """The model's file."""
    from safetensors.torch import save_model

    path = tmp_path / "model.safetensors"
    save_model(reference, path)
    return path
