"""What can be chosen: one frozen value, checked when it is made.

Floor 0; imports nothing of ours. `StreamOptions.from_env` is the only reader of an environment in the
package, and it reads the mapping it is given. Engine defaults are argued where they stand and in
`docs/decisions/`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StreamOptions"]

_MIB = 1 << 20
_PREFIX = "STREAMLOAD_OPTION_"
_TRUE = ("true", "1", "yes")
_FALSE = ("false", "0", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Choose how a load reads, stages and copies.

    Attributes:
        chunk_bytes: Largest single read, in bytes; also the size of one staging buffer. A power of two from
            64 KiB to 64 MiB. The default stays inside L3 while it is read and copied. What goes from a local file
            straight into host memory is staged nowhere: there a read may be up to 16 MiB long.
        staging_bytes: Most staging memory that the loads of a process share, in bytes; at least two chunks. Grown
            lazily, only as far as bandwidth and latency ask for, and kept below a quarter of what a container's
            limit leaves.
        read_threads: Threads that read for the loads of a process. None: one per CPU this process may use, at most 8.
        direct_io: True reads around the page cache (`O_DIRECT`), False through it; None decides per file by
            what the page cache holds.
        verify: Compare every tensor with the checksums beside the checkpoint (`streamload manifest`) while its bytes
            pass.
        device_memory: Most device memory that the weights of one module may take, in bytes. What does not fit passes
            through slots, layer by layer, in every pass. None: all of it becomes resident.
        host_memory: Most page-locked host memory, in bytes, that weights which pass through slots are kept in, so that
            later passes need not read them again; on top of `staging_bytes`. Only with `device_memory`.
        connections: Requests to a store that a process may have in flight. None: as many as bandwidth and latency ask
            for, at most 256.
        stall_seconds: A request to a store that brings no byte for so long is given up and sent again.
        retry_seconds: What a store refuses or breaks off is asked for again until no byte has come for so long.
        cache_dir: Directory, on a local drive, where what streams from a store is kept for the next load; a path is
            held as text. None: nothing is kept.
        cache_bytes: Most bytes kept there; what was used least lately goes first. None: no limit but the drive's.
        memory_dir: Directory in memory (tmpfs), where what streams from a store is kept and shared by the processes of
            a machine; likewise. None: nothing is.
        memory_bytes: Most bytes kept there. None: no limit but the file system's.
        offline: Ask no store for anything: only what `cache_dir` or `memory_dir` holds is loaded. What they do not
            hold is a `FileNotFoundError` that is a `SourceError`, too.
        debug: Look for wrong orders: overwrite new memory before its bytes arrive and slots after they were used, delay
            every step at random, check each rule of order for what passes through slots. Slow.

    Raises:
        ValueError: A value is out of range; the message says which and what is allowed.
        TypeError: A value is of the wrong type, or a field does not exist.
    """

    chunk_bytes: int = 4 * _MIB
    staging_bytes: int = 256 * _MIB
    read_threads: int | None = None
    direct_io: bool | None = None
    verify: bool = False
    device_memory: int | None = None
    host_memory: int = 0
    connections: int | None = None
    stall_seconds: float = 20.0
    retry_seconds: float = 60.0
    cache_dir: str | None = None
    cache_bytes: int | None = None
    memory_dir: str | None = None
    memory_bytes: int | None = None
    offline: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        _check_int("chunk_bytes", self.chunk_bytes, 64 << 10, 64 * _MIB)
        if self.chunk_bytes & (self.chunk_bytes - 1):
            raise ValueError(f"chunk_bytes must be a power of two, got {self.chunk_bytes}")
        _check_int("staging_bytes", self.staging_bytes, 2 * self.chunk_bytes, 1 << 40)
        if self.read_threads is not None:
            _check_int("read_threads", self.read_threads, 1, 256)
        if self.direct_io is not None and not isinstance(self.direct_io, bool):
            raise TypeError(f"direct_io must be True, False or None, got {self.direct_io!r}")
        for name in ("verify", "offline", "debug"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.device_memory is not None:
            _check_int("device_memory", self.device_memory, 1, 1 << 50)
        _check_int("host_memory", self.host_memory, 0, 1 << 50)
        if self.host_memory and self.device_memory is None:
            raise ValueError("host_memory keeps weights that pass through slots; give device_memory too")
        if self.connections is not None:
            _check_int("connections", self.connections, 1, 1024)
        for name in ("stall_seconds", "retry_seconds"):
            object.__setattr__(self, name, _checked_seconds(name, getattr(self, name)))
        for tier in ("cache", "memory"):
            directory = _checked_directory(f"{tier}_dir", getattr(self, f"{tier}_dir"))
            object.__setattr__(self, f"{tier}_dir", directory)
            _check_limit(tier, directory, getattr(self, f"{tier}_bytes"))
        if self.offline and self.cache_dir is None and self.memory_dir is None:
            raise ValueError("offline needs cache_dir or memory_dir: what they hold is all that can be loaded then")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> StreamOptions:
        """Build options from `STREAMLOAD_OPTION_<FIELD>` entries of a mapping such as `os.environ`.

        Integers are written in bytes or threads (`STREAMLOAD_OPTION_CHUNK_BYTES=4194304`), seconds as `2.5`, booleans
        as `true` or `false` (or 1, 0, yes, no), directories as they are; an entry that is missing keeps its default,
        `none` means None.

        Raises:
            ValueError: An entry names no field, or its text is not a value of that field.
        """
        known = {field.name: field for field in fields(cls)}
        chosen: dict[str, float | str | None] = {}
        for key, text in environ.items():
            if not key.startswith(_PREFIX):
                continue
            name = key.removeprefix(_PREFIX).lower()
            if name not in known:
                raise ValueError(f"{key} names no option; options are {', '.join(sorted(known))}")
            chosen[name] = _parse(key, text, str(known[name].type))
        return cls(**chosen)  # type: ignore[arg-type]  # names and types were just checked against the fields


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def _checked_seconds(name: str, value: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0.001 <= value <= 86400:
        raise ValueError(f"{name} must be from 0.001 to 86400 seconds, got {value}")
    return float(value)


def _checked_directory(name: str, directory: str | os.PathLike[str] | None) -> str | None:
    if directory is None:
        return None
    if not isinstance(directory, (str, os.PathLike)) or not isinstance(path := os.fspath(directory), str):
        raise TypeError(f"{name} must be a path, got {directory!r}")
    if not path or "\0" in path:
        raise ValueError(f"{name} must be the path of a directory, got {directory!r}")
    return path


def _check_limit(tier: str, directory: str | None, limit: int | None) -> None:
    if limit is not None:
        _check_int(f"{tier}_bytes", limit, 1, 1 << 60)
        if directory is None:
            raise ValueError(f"{tier}_bytes limits what {tier}_dir keeps; give {tier}_dir too")


def _parse(key: str, text: str, kind: str) -> float | str | None:
    """Read the text of a field whose annotation is `kind`."""
    word = text.strip().lower()
    optional = "None" in kind
    if optional and word == "none":
        return None
    if "bool" in kind:
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        allowed = "true, false or none" if optional else "true or false"
        raise ValueError(f"{key} must be {allowed}, got {text!r}")
    if "str" in kind:
        return text
    number: type[int] | type[float] = float if "float" in kind else int
    try:
        return number(word)
    except ValueError:
        what = "a number" if number is float else "a whole number"
        raise ValueError(f"{key} must be {what}, got {text!r}") from None
