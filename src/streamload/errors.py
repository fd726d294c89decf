"""What can go wrong: every exception streamload raises on purpose.

Floor 0; imports nothing of ours. Each class is also the builtin a caller already handles:

    StreamloadError
    ├── FormatError         (ValueError)    the bytes are not valid safetensors, or not what the index says
    ├── SourceError         (OSError)       reading failed; carries url, offset, nbytes, errno
    │   ├── ShortReadError                  the source ended before the bytes it promised
    │   ├── ChangedError                    the file or object changed under the load
    │   └── ChecksumError                   the bytes are not those the checksum was made of; carries expected, actual
    ├── DeviceError         (RuntimeError)  the device or its driver refused; carries code
    └── StreamClosedError   (RuntimeError)  used after close, after cancel, or in a forked child

A missing file is the builtin `FileNotFoundError`, denied access `PermissionError`, an unknown tensor name
`KeyError`.
"""

from __future__ import annotations

__all__ = [
    "ChangedError",
    "ChecksumError",
    "DeviceError",
    "FormatError",
    "ShortReadError",
    "SourceError",
    "StreamClosedError",
    "StreamloadError",
]


class StreamloadError(Exception):
    """Catch every error that streamload raises on purpose."""


class FormatError(StreamloadError, ValueError):
    """Report bytes that are not a valid safetensors header or index."""


class SourceError(StreamloadError, OSError):
    """Report a read that failed.

    Attributes:
        url: What was read: a path or URL.
        offset: First byte of the read, counted from the start of the source.
        nbytes: How many bytes were asked for.
        errno: The system's error number, or None where the failure has none.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str,
        offset: int | None = None,
        nbytes: int | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(message)
        self.url = url
        self.offset = offset
        self.nbytes = nbytes
        self.errno = errno

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_source_error, (type(self), str(self), self.url, self.offset, self.nbytes, self.errno)


class ShortReadError(SourceError):
    """Report a source that ended before the bytes it promised."""


class ChangedError(SourceError):
    """Report a file or object that is no longer the one whose header was read."""


class ChecksumError(SourceError):
    """Report bytes that were read whole and are not those that the checksum was made of.

    Attributes:
        expected: CRC-32C that the manifest holds.
        actual: CRC-32C of the bytes that were read.
    """

    def __init__(
        self,
        message: str,
        *,
        url: str,
        expected: int,
        actual: int,
        offset: int | None = None,
        nbytes: int | None = None,
    ) -> None:
        super().__init__(message, url=url, offset=offset, nbytes=nbytes)
        self.expected = expected
        self.actual = actual

    def __reduce__(self) -> tuple[object, ...]:
        given = (self.url, self.expected, self.actual, self.offset, self.nbytes)
        return _rebuild_checksum_error, (type(self), str(self), *given)


class DeviceError(StreamloadError, RuntimeError):
    """Report a device or driver call that failed.

    Attributes:
        code: The driver's own error number (`CUresult` on CUDA), 0 where there is none.
    """

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_device_error, (type(self), str(self), self.code)


class StreamClosedError(StreamloadError, RuntimeError):
    """Report use of something already closed or cancelled, or of a parent's load in a forked child."""


def _rebuild_source_error(
    kind: type[SourceError], message: str, url: str, offset: int | None, nbytes: int | None, errno: int | None
) -> SourceError:
    return kind(message, url=url, offset=offset, nbytes=nbytes, errno=errno)


def _rebuild_checksum_error(
    kind: type[ChecksumError],
    message: str,
    url: str,
    expected: int,
    actual: int,
    offset: int | None,
    nbytes: int | None,
) -> ChecksumError:
    return kind(message, url=url, expected=expected, actual=actual, offset=offset, nbytes=nbytes)


def _rebuild_device_error(kind: type[DeviceError], message: str, code: int) -> DeviceError:
    return kind(message, code=code)
