"""Stream safetensors weights onto a GPU while the model already computes.

The map of the house; a room imports only rooms on lower floors:

    5  streamload (this face), testing       6  _demo, bench       7  cli
    4  torch           tensors over device memory; modules filled in place while they compute
    3  _engine         runs a plan through `_native`; native failures become typed errors
    2  _checkpoint     a path or URL becomes a Checkpoint      _plan     layers and addresses become a LoadPlan
    1  _format         bytes of a header or index              _sources  where bytes live
    0  errors          what can go wrong                       options   what can be chosen
       _native         the compiled leaf (csrc/)

    path or URL ──► Checkpoint ──► LoadPlan ──► CopyEngine ──► tensors on the device, layer by layer

Importing this imports no framework; `streamload.torch` imports torch. Words: docs/glossary.md.
"""

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

__version__ = "0.1.0.dev0"

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
