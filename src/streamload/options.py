"""What can be chosen: one frozen value, checked when it is made.

Floor 0; imports nothing of ours. `StreamOptions.from_env` is the only reader of an environment in the
package, and it reads the mapping it is given. Engine defaults are argued where they stand and in
`docs/decisions/`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StreamOptions"]

_MIB = 1 << 20
_PREFIX = "STREAMLOAD_OPTION_"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Choose how a load reads, stages and copies.

    Attributes:
        chunk_bytes: Largest single read, in bytes; also the size of one staging buffer. A power of two from
            64 KiB to 64 MiB. The default stays inside L3 while it is read and copied.
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
        for name in ("verify", "debug"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.device_memory is not None:
            _check_int("device_memory", self.device_memory, 1, 1 << 50)
        _check_int("host_memory", self.host_memory, 0, 1 << 50)
        if self.host_memory and self.device_memory is None:
            raise ValueError("host_memory keeps weights that pass through slots; give device_memory too")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> StreamOptions:
        """Build options from `STREAMLOAD_OPTION_<FIELD>` entries of a mapping such as `os.environ`.

        Integers are written in bytes or threads (`STREAMLOAD_OPTION_CHUNK_BYTES=4194304`), booleans as `true` or
        `false`; an entry that is missing keeps its default, and `none` means None.

        Raises:
            ValueError: An entry names no field, or its text is not a value of that field.
        """
        known = {field.name: field for field in fields(cls)}
        chosen: dict[str, int | bool | None] = {}
        for key, text in environ.items():
            if not key.startswith(_PREFIX):
                continue
            name = key.removeprefix(_PREFIX).lower()
            if name not in known:
                raise ValueError(f"{key} names no option; options are {', '.join(sorted(known))}")
            chosen[name] = _parse(
                key, text, optional="None" in str(known[name].type), boolean="bool" in str(known[name].type)
            )
        return cls(**chosen)  # type: ignore[arg-type]  # names and types were just checked against the fields


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def _parse(key: str, text: str, *, optional: bool, boolean: bool) -> int | bool | None:
    word = text.strip().lower()
    if optional and word == "none":
        return None
    if boolean:
        if word in ("true", "false"):
            return word == "true"
        allowed = "true, false or none" if optional else "true or false"
        raise ValueError(f"{key} must be {allowed}, got {text!r}")
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{key} must be a whole number, got {text!r}") from None
