"""Stream safetensors weights onto a GPU while the model already computes.

`open` reads a checkpoint's headers. `streamload.torch` mirrors `safetensors.torch` and adds `stream_module`, which
fills a module while it computes, `stream` and `iter_tensors`. `StreamOptions` says how to read and stage.

    with streamload.open("path/to/model") as checkpoint:
        loading = streamload.torch.stream_module(model, checkpoint, "cuda:0")  # returns at once
        logits = model(tokens)  # each layer waits only for its own bytes

`from_pretrained` does the same for any model that transformers can load, as do the classes of
`streamload.transformers`; `patch` has other people's calls of `from_pretrained` stream.

    model = streamload.from_pretrained("path/to/model", device="cuda:0")  # returns at once

Importing this package imports no torch, and its own rooms only when one of their names is first used. The house, floor
by floor; a room imports only rooms below it:

    errors, options, _native        what can go wrong; what can be chosen; the compiled leaf
    _format, _sources               bytes of a header or index → records; where bytes live
    _checkpoint, _plan, _checksums  path → Checkpoint; layers + destinations → LoadPlan; what its bytes should sum to
    _doctor                         what will be slow on this machine, and what helps
    _report                         results → pages and pictures
    _engine, _schedule              runs a plan through the native engine, with typed errors; simulates it on paper
    torch, _verify, _pull           tensors, the gate, modules filled while they compute; a checkpoint checked at rest;
                                    models brought into a directory
    _lazy                           tensors that read nothing and write down what is done to them
    transformers, diffusers         others' `from_pretrained`, streamed
    _coldstart                      what a process's start is spent on
    _load_with                      a loading function of one's own, streamed
    _handover, vllm, sglang         engines whose own code puts each weight where it belongs
    testing, _models, bench, cli    tools for tests; what is measured with; measurements; the command line
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint, Layer, open
    from ._coldstart import ColdStartRecorder, ColdStartReport, Phase, WarmupReport, WarmupShape, warmup
    from ._engine import LoadStats
    from ._format import TensorInfo
    from ._load_with import load_with
    from ._pull import Pulled, PullProgress, pull
    from ._sources import Source
    from .errors import (
        ChangedError,
        ChecksumError,
        DeviceError,
        FormatError,
        ShortReadError,
        SourceError,
        StreamClosedError,
        StreamloadError,
    )
    from .options import StreamOptions
    from .transformers import from_pretrained, patch

__all__ = [
    "ChangedError",
    "Checkpoint",
    "ChecksumError",
    "ColdStartRecorder",
    "ColdStartReport",
    "DeviceError",
    "FormatError",
    "Layer",
    "LoadStats",
    "Phase",
    "PullProgress",
    "Pulled",
    "ShortReadError",
    "Source",
    "SourceError",
    "StreamClosedError",
    "StreamOptions",
    "StreamloadError",
    "TensorInfo",
    "WarmupReport",
    "WarmupShape",
    "__version__",
    "from_pretrained",
    "load_with",
    "open",
    "patch",
    "pull",
    "warmup",
]

__version__ = "0.1.0.dev0"

_ROOMS = {
    "Checkpoint": "_checkpoint",
    "ColdStartRecorder": "_coldstart",
    "ColdStartReport": "_coldstart",
    "Layer": "_checkpoint",
    "LoadStats": "_engine",
    "Phase": "_coldstart",
    "PullProgress": "_pull",
    "Pulled": "_pull",
    "Source": "_sources",
    "StreamOptions": "options",
    "TensorInfo": "_format",
    "WarmupReport": "_coldstart",
    "WarmupShape": "_coldstart",
    "from_pretrained": "transformers",
    "load_with": "_load_with",
    "open": "_checkpoint",
    "patch": "transformers",
    "pull": "_pull",
    "warmup": "_coldstart",
}
"""Where the public names live that are not in `errors`."""


_SUBMODULES = ("bench", "diffusers", "testing", "torch", "transformers")


def __getattr__(name: str) -> object:
    """Bring in a public name or submodule at its first use (PEP 562)."""
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_ROOMS.get(name, 'errors')}", __name__), name)
    globals()[name] = value  # the next use finds it without asking
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
