"""Read and write the manifest beside the shards of a checkpoint.

Part of `_checksums`. Written to a file of its own in the same directory, then renamed over the old one: whoever reads
sees the old manifest or the new one, and a symbolic link in its place is replaced, never followed. A FIFO, a device or
a socket in its place, or behind the link, is left alone.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING, Final

from .._format import MAX_JSON_NBYTES, Manifest, TensorSum, format_manifest, parse_manifest
from .._sources import FileSource, is_remote, join, local_path, open_source, read_head, redact, split
from .._whole_file import replace_file
from ..errors import FormatError

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
    with closing(source):
        return _parse(source)


def _read_remote(checkpoint: Checkpoint) -> tuple[Manifest, str]:
    """Read the manifest beside a checkpoint in a store; return it and its URL."""
    try:
        source = checkpoint.open_beside(MANIFEST_NAME)
    except FileNotFoundError as error:
        text = "no such object: there are no checksums to compare with; make them with `streamload manifest` where the "
        raise FileNotFoundError(errno.ENOENT, f"{text}files are, and upload {MANIFEST_NAME}", error.filename) from error
    with closing(source):
        return _parse(source), source.url


def _parse(source: Source) -> Manifest:
    if source.nbytes > MAX_JSON_NBYTES:
        raise FormatError(f"{source.url}: manifest of {source.nbytes} bytes, at most {MAX_JSON_NBYTES} are allowed")
    return parse_manifest(read_head(source, source.nbytes), url=source.url)


def _opened(path: str, storage_options: Mapping[str, object] | None) -> Source:
    return open_source(path, storage_options=storage_options) if is_remote(path) else FileSource(path)


def known_sums(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the CRC-32C of every tensor of a checkpoint, from the manifest beside it.

    The manifest may know more tensors: one shard of several may be opened alone.

    Raises:
        FileNotFoundError, PermissionError, SourceError: As `read_manifest`.
        FormatError: The manifest is not valid, or belongs to another checkpoint.
    """
    if is_remote(checkpoint.url):
        manifest, path = _read_remote(checkpoint)
    else:
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
