"""What the tests of oversized modules share: small models, their files, budgets, and the resident truth."""

from __future__ import annotations

import threading

import torch
from torch import nn

import streamload
from streamload import StreamOptions
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.torch import save_model, stream_module
from streamload.torch._streamed_gate import StreamedGate


class Block(nn.Module):
    def __init__(self, width=48, inner=96):
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.down(torch.relu(self.up(x))))


class Stack(nn.Module):
    """Embedding, blocks of several sizes, norm, head; `path` says which blocks run, in which order."""

    def __init__(self, blocks=6, inner=(96,)):
        super().__init__()
        self.embed = nn.Embedding(64, 48)
        self.layers = nn.ModuleList(Block(48, inner[number % len(inner)]) for number in range(blocks))
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, 64, bias=False)

    def forward(self, ids, path=None):
        hidden = self.embed(ids)
        for number in range(len(self.layers)) if path is None else path:
            hidden = self.layers[number](hidden)
        return self.head(self.norm(hidden))


def run(module, *args: object):
    with torch.no_grad():
        return module(*args)


def ids():
    return torch.arange(24).view(2, 12)


def saved(tmp_path, make):
    """A model with random weights, and its file."""
    torch.manual_seed(0)
    reference = make().eval()
    path = tmp_path / "model.safetensors"
    save_model(reference, path)
    return reference, path


def on_meta(make):
    with torch.device("meta"):
        return make().eval()


def options(budget, **others: object):
    return StreamOptions(device_memory=budget, **others)


def streamed(module, path, budget, *, device=None, **others: object):
    """Fill a module within a budget, on a host device that stages, spoils what it frees and is checked for it."""
    where = HostDevice(poison=True, staged=True) if device is None else device
    with streamload.open(path) as checkpoint:
        engine = CopyEngine(where, options(budget, **others))
        return stream_module(module, checkpoint, "cpu", engine=engine)


def least_budget(make, path, empty=None):
    """The least device memory that will do, as the refusal says it; `empty` makes the module without weights."""
    try:
        streamed((empty or on_meta)(make), path, 1)
    except ValueError as error:
        return int(str(error).partition("at least ")[2].split()[0])
    raise AssertionError("a budget of one byte was taken")


def whole_budget(path):
    """A budget that everything fits in."""
    with streamload.open(path) as checkpoint:
        return sum(-(-info.nbytes // 256) * 256 for info in checkpoint.values()) + 512


def streamed_names(module):
    return [name for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, StreamedGate)]


def wait_for(condition, seconds=60.0):
    """Wait until another thread has got somewhere."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("it did not happen")
