"""Stream safetensors weights onto a GPU while the model already computes.

The house, floor by floor; a room imports only rooms below it:

    errors, options, _native        what can go wrong; what can be chosen; the compiled leaf
    _format, _sources               bytes of a header or index → records; where bytes live
    _checkpoint, _plan              path → Checkpoint; layers + destinations → LoadPlan
    _engine                         runs a plan through the native engine, with typed errors
    torch                           tensors, the gate, modules filled while they compute
    testing, bench, cli             tools for tests; measurements; the command line

Importing this package imports no torch, and its own rooms only when one of their names is first used. With torch:
`streamload.torch`, which mirrors `safetensors.torch` and adds `stream`, `iter_tensors` and `stream_module`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_ROOMS = {
    "Checkpoint": "_checkpoint",
    "Layer": "_checkpoint",
    "LoadStats": "_engine",
    "Source": "_sources",
    "StreamOptions": "options",
    "TensorInfo": "_format",
    "open": "_checkpoint",
}
"""Where the public names live that are not in `errors`."""


def __getattr__(name: str) -> object:
    """Bring in a public name at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{_ROOMS.get(name, 'errors')}", __name__), name)
    globals()[name] = value  # the next use finds it without asking
    return value


def __dir__() -> list[str]:
    return __all__
