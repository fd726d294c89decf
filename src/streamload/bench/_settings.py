"""What a benchmark is asked for, and which of the peers' own settings were in the environment.

Floor 6; pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = [
    "CompareSettings",
    "LinkSettings",
    "OverlapSettings",
    "PeerSettings",
    "PretrainedSettings",
    "SourceSettings",
    "StorageSettings",
]

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
        thorough: Measure all of it, in some six minutes on two processors; else what two minutes have room for.
        command: What was typed, for the record.
    """

    path: str | os.PathLike[str] | None = None
    device: str = "cpu"
    repeat: int = 3
    tokens: tuple[int, ...] = ()
    link_bytes_per_second: float | None = None
    real_compute: bool = False
    thorough: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedSettings:
    """Choose what the benchmark of `from_pretrained` measures.

    Attributes:
        path: Directory of a causal language model of transformers; None makes a Llama in a temporary directory.
        device: "cpu" or "cuda:N".
        repeat: Pairs of loads, for each figure.
        command: What was typed, for the record.
    """

    path: str | os.PathLike[str] | None = None
    device: str = "cpu"
    repeat: int = 5
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
        thorough: Measure others beside a busy main thread, too: some take a minute for each transfer then.
        command: What was typed, for the record.
    """

    url: str | None = None
    storage_options: Mapping[str, object] = field(default_factory=dict)
    repeat: int = 6
    range_bytes: int = 8 << 20
    connections: int = 8
    busy: bool = True
    peers: bool = True
    thorough: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Choose what the link benchmark measures.

    Attributes:
        device: "cpu" or "cuda:N".
        repeat: Rounds; each runs every way to copy and to pin.
        nbytes: Bytes that one run copies, a power of two; fewer where memory is short.
        sizes: Lengths of a copy in bytes, powers of two; longer ones than `nbytes` are left out.
        command: What was typed, for the record.
    """

    device: str = "cpu"
    repeat: int = 20
    nbytes: int = 256 << 20
    sizes: tuple[int, ...] = (64 << 10, 1 << 20, 4 << 20, 32 << 20)
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Choose what the storage benchmark measures.

    Attributes:
        where: A file, a directory of files, or a checkpoint's URL; None makes a file in a temporary directory.
        storage_options: How a store is reached, as fsspec takes it.
        repeat: Rounds; each runs every way to read.
        cold: Of a drive, leave out what the page cache gives.
        nbytes: Most bytes that one run reads; fewer where that would take too long.
        command: What was typed, for the record.
    """

    where: str | os.PathLike[str] | None = None
    storage_options: Mapping[str, object] = field(default_factory=dict)
    repeat: int = 14
    cold: bool = False
    nbytes: int = 512 << 20
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """Choose what the comparison of loaders measures.

    Attributes:
        path: A checkpoint's file or directory; None makes one of about 1 GB in a temporary directory.
        device: "cpu" or "cuda:N".
        repeat: Rounds; each runs every loader.
        cold: Leave out the rounds with the files in the page cache.
        peer_settings: What peers find in the environment, for the record.
        command: What was typed, for the record.
    """

    path: str | os.PathLike[str] | None = None
    device: str = "cpu"
    repeat: int = 5
    cold: bool = False
    peer_settings: PeerSettings = field(default_factory=PeerSettings)
    command: str = ""
