"""What a benchmark is asked for, and which of the peers' own settings were in the environment.

Floor 6; pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["OverlapSettings", "PeerSettings", "PretrainedSettings", "SourceSettings"]

_PREFIXES = ("FASTSAFETENSORS_", "INSTANTTENSOR_", "RUNAI_STREAMER_", "SAFETENSORS_", "TENSORIZER_")


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Hold the settings that peers find in the environment.

    Attributes:
        values: Text by name of the variable.
    """

    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> PeerSettings:
        """Pick the peers' variables out of a mapping such as `os.environ`."""
        return cls({name: text for name, text in sorted(environ.items()) if name.startswith(_PREFIXES)})


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapSettings:
    """Choose what the overlap benchmark measures.

    Attributes:
        path: Directory of a transformers checkpoint; None makes a Llama in a temporary directory.
        device: "cpu" or "cuda:N".
        repeat: Rounds; each runs every pass.
        tokens: Lengths of the prompts; none chooses them, from transfer-bound to compute-bound.
        link_bytes_per_second: Rate of the simulated link; None chooses it.
        real_compute: Compute over all of a prompt on the host, where the time of layers is otherwise simulated.
        quick: Measure less, for a first look.
        command: What was typed, for the record.
    """

    path: str | os.PathLike[str] | None = None
    device: str = "cpu"
    repeat: int = 3
    tokens: tuple[int, ...] = ()
    link_bytes_per_second: float | None = None
    real_compute: bool = False
    quick: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedSettings:
    """Choose what the benchmark of `from_pretrained` measures.

    Attributes:
        path: Directory of a causal language model of transformers; None makes a Llama in a temporary directory.
        device: "cpu" or "cuda:N".
        repeat: Pairs of loads, for each figure.
        quick: Two pairs at most, for a first look.
        command: What was typed, for the record.
    """

    path: str | os.PathLike[str] | None = None
    device: str = "cpu"
    repeat: int = 5
    quick: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Choose what the source benchmark measures.

    Attributes:
        url: A checkpoint's URL; None makes one, and a server for it on this machine.
        storage_options: How the store is reached, as fsspec takes it.
        repeat: Rounds; each runs every client.
        range_bytes: Length of a request where a client leaves it open.
        connections: Requests in flight, likewise.
        busy: Whether to measure beside a busy main thread, too.
        peers: Whether others' clients take part.
        command: What was typed, for the record.
    """

    url: str | None = None
    storage_options: Mapping[str, object] = field(default_factory=dict)
    repeat: int = 5
    range_bytes: int = 8 << 20
    connections: int = 8
    busy: bool = True
    peers: bool = True
    command: str = ""
