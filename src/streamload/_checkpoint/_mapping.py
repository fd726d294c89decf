"""Open the files of a checkpoint, check them against each other and hold them open behind one Mapping.

Part of `_checkpoint`; reads headers only. Tensors that a shard holds and the index does not name are part of the
checkpoint, as for transformers, which loads every tensor of every shard; where several shards hold a name, the
index decides, and without its word the checkpoint is refused.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import TYPE_CHECKING, TypeVar, overload

from .._closing import Closing
from .._collector import collector_paused
from .._format import Header, TensorInfo, header_nbytes, parse_header
from .._sources import HEAD_BYTES, FileSource, Source, is_remote, local_path, read_head, redact
from ..errors import FormatError, SourceError, StreamClosedError
from ._files import CheckpointFiles, ShardIndex, find_files, is_pickle_name
from ._layers import Layer, group_layers
from ._objects import Objects, find_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from ..options import StreamOptions

_Default = TypeVar("_Default")


@dataclass(frozen=True, slots=True)
class Shard:
    """Hold one open file of a checkpoint.

    Attributes:
        url: Path of the file.
        nbytes: Length of the file in bytes, header included.
        source: The open file; closed by the checkpoint.
        metadata: The free text entries of the file's header.
    """

    url: str
    nbytes: int
    source: Source
    metadata: Mapping[str, str]


class Checkpoint(Closing, Mapping[str, TensorInfo]):
    """Map tensor names to where their bytes are, in shard and file order; a context manager.

    Made by `open`. Holds every shard's file open until `close`, after which use raises `StreamClosedError`.
    Reading it from several threads is safe.

    Attributes:
        headers_read: When reading the headers began and when it ended, on `time.monotonic()`'s clock; None where
            nobody took the time.

    Example:
        >>> with streamload.open("path/to/model") as checkpoint:
        ...     checkpoint["lm_head.weight"].shape
    """

    def __init__(
        self,
        url: str,
        shards: Sequence[Shard],
        tensors: Mapping[str, TensorInfo],
        beside: Callable[[str], Source] | None = None,
    ) -> None:
        self.headers_read: tuple[float, float] | None = None
        self._url = url
        self._beside = beside
        self._shards = tuple(shards)
        self._tensors = dict(tensors)
        self._layers: tuple[Layer, ...] | None = None
        self._nbytes: int | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """What was opened, as it was given."""
        return self._url

    @property
    def nbytes(self) -> int:
        """Length of the data of all tensors in bytes."""
        if self._nbytes is None:  # added up when asked for: a tenth of what opening many tensors takes
            self._nbytes = sum([tensor.end - tensor.start for tensor in self._tensors.values()])
        return self._nbytes

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The open files; `TensorInfo.shard` counts in this order."""
        self._check_open()
        return self._shards

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every tensor once, grouped into layers in the order a model runs them; a guess from names."""
        self._check_open()
        if self._layers is None:
            self._layers = group_layers(self._tensors.values())
        return self._layers

    @property
    def metadata(self) -> dict[str, str]:
        """The shards' free text entries together; where two differ, the first shard's."""
        self._check_open()
        merged: dict[str, str] = {}
        for shard in reversed(self._shards):
            merged.update(shard.metadata)
        return merged

    def detached(self) -> Checkpoint:
        """Return a checkpoint of the same headers that stays open when this one is closed.

        Its sources are this one's: once they are closed only the copy engine can read them, which opens them itself.
        """
        self._check_open()
        detached = Checkpoint(self._url, self._shards, self._tensors, self._beside)
        detached._layers = self.layers
        detached.headers_read = self.headers_read
        return detached

    def reopen(self) -> Checkpoint:
        """Open the same shards once more, for the caller to close; no header is read again.

        Raises:
            ChangedError: A file is another one by now.
            FileNotFoundError, PermissionError, SourceError: A file can no longer be opened.
        """
        with ExitStack() as opened:
            shards = []
            for shard in self._shards:
                reopen: Callable[[], Source] | None = getattr(shard.source, "reopen", None)
                if reopen is None:
                    raise SourceError(f"{shard.url}: cannot be opened again", url=shard.url)
                source = reopen()
                opened.callback(source.close)
                shards.append(replace(shard, source=source))
            opened.pop_all()
        again = Checkpoint(self._url, shards, self._tensors, self._beside)
        again._layers = self._layers
        again.headers_read = self.headers_read
        return again

    def open_beside(self, name: str) -> Source:
        """Open another object of the store that the checkpoint is in, by its name; the caller closes it.

        Raises:
            ValueError: The checkpoint is local.
            FileNotFoundError: There is none of the name.
            PermissionError, SourceError: It cannot be opened.
        """
        if self._beside is None:
            raise ValueError(f"{self._url}: the checkpoint is in no store")
        return self._beside(name)

    def close(self) -> None:
        """Close every file. Harmless when repeated."""
        self._closed = True
        for shard in self._shards:
            shard.source.close()

    def __getitem__(self, name: str) -> TensorInfo:
        self._check_open()
        try:
            return self._tensors[name]
        except KeyError:
            raise KeyError(_explain_unknown(str(name), self._tensors, self._url)) from None

    def __contains__(self, name: object) -> bool:
        self._check_open()
        return name in self._tensors

    @overload
    def get(self, name: str, /) -> TensorInfo | None: ...
    @overload
    def get(self, name: str, /, default: TensorInfo | _Default) -> TensorInfo | _Default: ...
    def get(self, name: str, /, default: object = None) -> object:
        """Return the tensor of that name, or `default`; without the search for near names of `[]`."""
        self._check_open()
        return self._tensors.get(name, default)

    def __iter__(self) -> Iterator[str]:
        self._check_open()
        return iter(self._tensors)

    def __len__(self) -> int:
        self._check_open()
        return len(self._tensors)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"shards={len(self._shards)}"
        return f"Checkpoint({self._url!r}, tensors={len(self._tensors)}, nbytes={self.nbytes}, {state})"

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError(f"{self._url}: the checkpoint is closed")


def infos_of(checkpoint: Checkpoint) -> Mapping[str, TensorInfo]:
    """Return the checkpoint's own dict, for who looks up many names; not to be changed.

    Raises:
        StreamClosedError: It is closed.
    """
    checkpoint._check_open()
    return checkpoint._tensors


@collector_paused()
def open(
    url: str | os.PathLike[str],
    *,
    variant: str | None = None,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
) -> Checkpoint:
    """Open a checkpoint and read its headers, no weights.

    Args:
        url: A local path or URL (`file://`, `s3://`, `gs://`, `az://`, `https://`, `hf://`, whatever fsspec knows): a
            safetensors file, a directory or prefix that holds some, or an index file (`*.safetensors.index.json`). How
            a directory is read: `_files`.
        variant: Load the files of this variant in a directory, such as `fp16` for `model.fp16.safetensors`.
        storage_options: Credentials and endpoints, by the names that fsspec's library for the scheme takes.
        options: How long a store is waited for, and what is kept of it.

    Raises:
        ValueError: The path is empty, no library knows the scheme, or `variant` does not fit.
        TypeError: An entry of `storage_options` is not known.
        ImportError: The library for the scheme is not installed; the message names the extra.
        FileNotFoundError: The file or directory, a safetensors file in it, or a shard named by the index is missing.
        PermissionError: This process may not read a file, or the store denies access.
        FormatError: A header or index is not valid, the shards contradict the index or each other, or the files
            are pickles.
        SourceError: A file cannot be read.
    """
    began = time.monotonic()
    if is_remote(url):
        found = find_objects(str(url), variant=variant, storage_options=storage_options, options=options)
        return _timed(_open_objects(found, redact(str(url))), began)
    if storage_options:
        raise ValueError(f"{url}: storage_options are for stores, and this is a local path")
    return _timed(_open(find_files(local_path(url), variant=variant), str(url)), began)


def open_files(paths: Sequence[str | os.PathLike[str]]) -> Checkpoint:
    """Open files that somebody else has chosen as one checkpoint, in their order; errors as those of `open`."""
    began = time.monotonic()
    return _timed(_open(CheckpointFiles(tuple([os.fspath(path) for path in paths])), os.fspath(paths[0])), began)


def _timed(checkpoint: Checkpoint, began: float) -> Checkpoint:
    checkpoint.headers_read = (began, time.monotonic())
    return checkpoint


def _open(files: CheckpointFiles, url: str) -> Checkpoint:
    with ExitStack() as opened:
        parts = []
        for number, path in enumerate(files.paths):
            source = opened.enter_context(_open_shard(path, files))
            parts.append((source, _read_header(source, shard=number)))
        checkpoint = _assemble(parts, files.index_path, files.shard_index, url)
        opened.pop_all()
    return checkpoint


def _open_objects(objects: Objects, url: str) -> Checkpoint:
    """Open the shards of a store, many at once: each takes a round trip."""
    with ExitStack() as opened:
        parts = objects.open_all(opened, _read_header)
        checkpoint = _assemble(parts, objects.index_url, objects.shard_index, url, objects.open_beside)
        opened.pop_all()
    return checkpoint


def _assemble(
    parts: Sequence[tuple[Source, Header]],
    index_url: str | None,
    index: ShardIndex | None,
    url: str,
    beside: Callable[[str], Source] | None = None,
) -> Checkpoint:
    shards = [Shard(source.url, source.nbytes, source, header.metadata) for source, header in parts]
    tensors = _merge([header for _, header in parts], [shard.url for shard in shards], index_url, index)
    return Checkpoint(url, shards, tensors, beside)


def _open_shard(path: str, files: CheckpointFiles) -> FileSource:
    try:
        return FileSource(path)
    except FileNotFoundError as error:
        if files.index_path is None:
            raise
        text = f"{error.strerror}: a shard that {files.index_path} names"
        raise FileNotFoundError(errno.ENOENT, text, path) from error


def _read_header(source: Source, *, shard: int) -> Header:
    try:
        # One request where each costs a round trip; a file's header is parsed from a buffer of its own length.
        apart = isinstance(source, FileSource) or bool(getattr(source, "head", None))
        first = read_head(source, min(8 if apart else HEAD_BYTES, source.nbytes))
        nbytes = header_nbytes(first[:8], url=source.url, file_nbytes=source.nbytes)
        prefix = first if len(first) >= nbytes else read_head(source, nbytes)
        return parse_header(prefix, url=source.url, file_nbytes=source.nbytes, shard=shard)
    except FormatError as error:
        if is_pickle_name(source.url):
            raise FormatError(
                f"{error}; by its name it is a pickle checkpoint, and only safetensors are read"
            ) from error
        raise


def _merge(
    headers: Sequence[Header], urls: Sequence[str], index_url: str | None, index: ShardIndex | None
) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        tensors.update(header.by_name)
    count = sum([len(header.by_name) for header in headers])
    if len(tensors) == count and (index is None or _agree(headers, index)):
        return tensors  # nearly always
    shards, weight_map = (index.shards, index.weight_map) if index is not None else (urls, {})
    tensors = {}
    for header, shard, url in zip(headers, shards, urls, strict=True):
        for name, tensor in header.by_name.items():
            if weight_map.get(name, shard) != shard:
                continue  # the index takes this name from another shard
            if name in tensors:
                first = urls[tensors[name].shard]
                raise FormatError(f"{url}: tensor {name[:120]!r} is also in {first}, and no index decides")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            url = urls[shards.index(shard)]
            raise FormatError(f"{index_url}: sends tensor {name[:120]!r} to {url}, which lacks it")
    return tensors


def _agree(headers: Sequence[Header], index: ShardIndex) -> bool:
    """Whether the shards hold the tensors that an index names, where it says, and no others."""
    if len(index.weight_map) != sum([len(header.by_name) for header in headers]):
        return False
    found = [list(map(index.weight_map.get, header.by_name)) for header in headers]
    return all([each.count(shard) == len(each) for each, shard in zip(found, index.shards, strict=True)])


def _explain_unknown(name: str, tensors: Mapping[str, TensorInfo], url: str) -> str:
    """Say which names come near. The full comparison is for the 64 likeliest, as it takes 0.1 ms a name."""
    from difflib import get_close_matches  # for the error's text only

    wanted = name[:200]
    parts = set(wanted.split("."))
    likely = nlargest(
        64, tensors, key=lambda known: (len(parts.intersection(known.split("."))), -abs(len(known) - len(wanted)))
    )
    near = get_close_matches(wanted, [known for known in likely if len(known) <= 400])
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"no tensor {wanted!r} in {url}{hint}"
