"""Write a file that nobody sees half of: under another name, then renamed over what stood there.

Floor 1. `replace_file` is for files of ours, `write_whole` for those that a user names.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from .errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["replace_file", "sync_directory", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write a text to where a user wants it: into a pipe or a terminal as it is, else whole or not at all.

    A symbolic link stays one; what it leads to is replaced.

    Raises:
        OSError: It cannot be written; what stood there before still does.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        replace_file(str(path.resolve()), text.encode())


def replace_file(path: str, data: bytes, *, temporary: str | None = None) -> None:
    """Write a whole file in one step: whoever reads sees the old one or the new one.

    Args:
        path: The file.
        data: All of it.
        temporary: Where it is written first, on the same file system; nobody else may use that path now, and what an
            earlier process left there is removed. None: beside the file, under a name of its own.

    Raises:
        OSError: The file cannot be written; nothing is left behind, and what stood there before still does.
        FormatError: What stands there is not a regular file.
    """
    _check_replaceable(path)
    directory, name = os.path.split(path)
    if temporary is None:
        temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}")  # noqa: PTH118 - a path is bytes for the system, and stays as it is
    else:
        with suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108 - as above
    try:
        # O_EXCL follows no symbolic link, and the mode is what the umask leaves of it. Within the try: Ctrl-C may come
        # between the file and its descriptor.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - as above
    except BaseException as error:
        if not isinstance(error, FileExistsError):  # that one is somebody else's
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108 - as above
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, path) from error  # the subclass that the number has
        raise
    sync_directory(directory or ".")


def _check_replaceable(path: str) -> None:
    """Check that a file may be renamed over what is at a path: nothing, a file, or a link to one of these.

    Raises:
        FormatError: Something else is there, such as a FIFO, a device or a directory.
        OSError: The system will not say.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as above
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path}: is not a regular file; nothing is written over it")


def sync_directory(directory: str) -> None:
    """Let new names in a directory outlive a power failure. Where the system refuses, they are there all the same."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
