"""Turn native failures into our exceptions: the one table between `Code` and Python classes.

Floor 3, part of `_engine`. The codes are csrc/core/status.hpp's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from ..errors import (
    ChangedError,
    ChecksumError,
    DeviceError,
    ShortReadError,
    SourceError,
    StreamClosedError,
    StreamloadError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .. import _native

_SOURCE_ERRORS: Final = {
    "read_failed": SourceError,
    "callback_failed": SourceError,
    "short_read": ShortReadError,
    "changed": ChangedError,
}
_PATH_ERRORS: Final = {"not_found": FileNotFoundError, "permission": PermissionError}
_DEVICE_ERRORS: Final = ("no_device", "device_failed", "out_of_device_memory", "out_of_pinned_memory")
_CLOSED_ERRORS: Final = ("cancelled", "closed", "forked")


def raise_typed(
    error: _native.NativeError, cause: BaseException | None = None, key_names: Sequence[str] = ()
) -> NoReturn:
    """Raise the exception a native failure stands for.

    Args:
        error: What the native engine said.
        cause: The exception of a Python source that it was about, if any.
        key_names: What the keys of the plan's checksums stand for.
    """
    text = str(error)
    origin = error if cause is None else cause
    if isinstance(cause, (StreamloadError, FileNotFoundError, PermissionError)):  # as the native ways raise them
        raise cause
    if error.code in _SOURCE_ERRORS:
        number: int | None = error.system_code or None
        if cause is not None:
            number = cause.errno if isinstance(cause, OSError) else None
            text = (
                f"{error.source}: reading {error.nbytes} bytes at offset {error.offset}: "
                f"{type(cause).__name__}: {cause}"
            )
        raise _SOURCE_ERRORS[error.code](
            text, url=error.source, offset=error.offset, nbytes=error.nbytes, errno=number
        ) from origin
    if error.code == "checksum":
        name = repr(key_names[error.key]) if key_names else f"{error.nbytes} bytes at offset {error.offset}"
        raise ChecksumError(
            f"{error.source}: {name}: {text}: CRC-32C {error.actual:08x}, expected {error.expected:08x}; "
            "`streamload verify` checks the whole checkpoint",
            url=error.source,
            offset=error.offset,
            nbytes=error.nbytes,
            expected=error.expected,
            actual=error.actual,
        ) from origin
    if error.code == "out_of_host_memory":
        raise MemoryError(text) from origin
    if error.code in _PATH_ERRORS:
        raise _PATH_ERRORS[error.code](error.system_code, text, error.source) from origin
    if error.code in _DEVICE_ERRORS:
        raise DeviceError(text, code=error.system_code) from origin
    if error.code in _CLOSED_ERRORS:
        raise StreamClosedError(text) from origin
    if error.code == "misused":
        raise RuntimeError(text) from origin
    raise ValueError(text) from origin
