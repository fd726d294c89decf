"""Read and write the manifest beside the shards of a checkpoint.

Part of `_checksums`. Written to a file of its own in the same directory, then renamed over the old one: whoever reads
sees the old manifest or the new one, and a symbolic link in its place is replaced, never followed. A FIFO, a device or
a socket in its place, or behind the link, is left alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from .._format import MAX_JSON_NBYTES, Manifest, TensorSum, format_manifest, parse_manifest
from .._sources import FileSource, is_remote, join, local_path, open_source, redact, split
from ..errors import FormatError, ShortReadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._checkpoint import Checkpoint
    from .._sources import Source

MANIFEST_NAME: Final = "streamload-checksums.json"


def manifest_path(url: str | os.PathLike[str]) -> str:
    """Return where the manifest of a checkpoint stands: in its directory, beside its file or its index.

    Args:
        url: The checkpoint, as `streamload.open` takes it.

    Raises:
        ValueError: The text is empty, holds NUL, or is a file URL of another host.
    """
    if is_remote(url):
        place = str(url)
        return join(
            split(place)[0] if place.partition("?")[0].endswith((".safetensors", ".json")) else place, MANIFEST_NAME
        )
    path = local_path(url)
    directory = path if os.path.isdir(path) else os.path.split(path)[0]  # noqa: PTH112 - a str path may hold what Path would normalise away
    return os.path.join(directory, MANIFEST_NAME)  # noqa: PTH118 - as above


def read_manifest(
    path: str, *, url: str | os.PathLike[str], storage_options: Mapping[str, object] | None = None
) -> Manifest:
    """Read and check a manifest.

    Args:
        path: The manifest's file, or its URL.
        url: The checkpoint it should be of, for the error's text.
        storage_options: For a URL, as `streamload.open` takes them.

    Raises:
        FileNotFoundError: There is none; the message says how to make one.
        FormatError: It is not valid, or too large to be one.
        PermissionError, SourceError: It cannot be read.
    """
    shown = redact(str(url))
    try:
        source = _opened(path, storage_options)
    except FileNotFoundError as error:
        text = f"{error.strerror}: there are no checksums to compare with; while the files are known to be right, "
        raise FileNotFoundError(errno.ENOENT, f"{text}make them with: streamload manifest {shown}", path) from error
    except PermissionError as error:  # what FileSource says of modes is about files of weights
        code = error.errno or errno.EACCES
        raise PermissionError(code, f"{os.strerror(code)}: the manifest cannot be read", path) from error
    path = redact(path)
    with closing(source):
        if source.nbytes > MAX_JSON_NBYTES:
            raise FormatError(f"{path}: manifest of {source.nbytes} bytes, at most {MAX_JSON_NBYTES} are allowed")
        data = bytearray(source.nbytes)
        count = source.read_into(0, memoryview(data))
    if count != len(data):
        raise ShortReadError(
            f"{path}: the file ended after {count} of {len(data)} bytes", url=path, offset=0, nbytes=len(data)
        )
    return parse_manifest(memoryview(data), url=path)


def _opened(path: str, storage_options: Mapping[str, object] | None) -> Source:
    return open_source(path, storage_options=storage_options) if is_remote(path) else FileSource(path)


def known_sums(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the CRC-32C of every tensor of a checkpoint, from the manifest beside it.

    The manifest may know more tensors: one shard of several may be opened alone.

    Raises:
        FileNotFoundError, PermissionError, SourceError: As `read_manifest`.
        FormatError: The manifest is not valid, or belongs to another checkpoint.
        ValueError: The checkpoint is not local.
    """
    path = manifest_path(checkpoint.url)
    manifest = read_manifest(path, url=checkpoint.url)
    tensors: dict[str, TensorSum] = {}
    for shard in manifest.shards.values():
        tensors.update(shard.tensors)
    for name, info in checkpoint.items():
        known = tensors.get(name)
        if known is None or known.dtype != info.dtype or known.shape != info.shape:
            there = "not in it" if known is None else f"{known.dtype} of shape {list(known.shape)} in it"
            raise FormatError(
                f"{path}: belongs to another checkpoint than {checkpoint.url}: tensor {name[:120]!r} is {there}, and "
                f"{info.dtype} of shape {list(info.shape)} in {checkpoint.shards[info.shard].url}"
            )
    return {name: tensors[name].crc32c for name in checkpoint}


def write_manifest(path: str, manifest: Manifest) -> None:
    """Write a manifest in one step: when this fails, what stood there before still does.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
        FormatError: What stands there is not a regular file, or a name in the manifest cannot be read back, such as a
            shard's with a backslash.
    """
    data = format_manifest(manifest).encode()
    parse_manifest(data, url=path)
    replace_file(path, data)


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
        temporary = os.path.join(directory, f".{name}.{secrets.token_hex(8)}")  # noqa: PTH118 - as in manifest_path
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
        mode = os.stat(path).st_mode  # noqa: PTH116 - as in manifest_path
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
