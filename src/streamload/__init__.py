"""Stream safetensors weights onto a GPU while the model already computes.

The house, floor by floor; a room imports only rooms below it:

    errors, options, _native        what can go wrong; what can be chosen; the compiled leaf
    _format, _sources               bytes of a header or index → records; where bytes live
    _checkpoint, _plan              path → Checkpoint; layers + destinations → LoadPlan
    _engine                         runs a plan through the native engine, with typed errors
    torch                           tensors, the gate, modules filled while they compute
    testing, bench, cli             tools for tests; measurements; the command line

Importing this package imports no torch. With torch: `streamload.torch`, which mirrors `safetensors.torch` and adds
`stream`, `iter_tensors` and `stream_module`.
"""

from __future__ import annotations

from ._checkpoint import Checkpoint, Layer, open
from ._engine import LoadStats
from ._format import TensorInfo
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

__all__ = [
    "ChangedError",
    "Checkpoint",
    "ChecksumError",
    "DeviceError",
    "FormatError",
    "Layer",
    "LoadStats",
    "ShortReadError",
    "Source",
    "SourceError",
    "StreamClosedError",
    "StreamOptions",
    "StreamloadError",
    "TensorInfo",
    "__version__",
    "open",
]

__version__ = "0.1.0.dev0"
