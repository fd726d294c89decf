"""Decide which files a model has at its sources, and open them.

Part of `_pull`. A source is a file, a place that can be listed (a prefix, a directory, a repository), or an index,
which stands for itself and its shards: over plain HTTP, where nothing can be listed, the only way to name several files
at once beside a list of models that names them.
"""

from __future__ import annotations

import errno
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from .._format import MAX_JSON_NBYTES, PLAIN_PATH, is_plain_path, parse_index
from .._sources import FileSource, open_source, open_store
from ..errors import FormatError, ShortReadError
from ._partial import ObjectRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._format import ListedModel
    from .._sources import Source, Store
    from ..options import StreamOptions

_INDEX: Final = ".index.json"
_OPENERS: Final = 16  # objects that are opened at once: one request each
_SHA256_ETAG: Final = re.compile(r'"?([0-9a-f]{64})"?')
_MOST_FILES: Final = 100_000


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Hold one opened file of a model.

    Attributes:
        name: Its path below the model's directory.
        source: Where its bytes come from; pinned to one version where the store has a word for it.
        record: What the object is, and what its bytes must sum to where that is known.
    """

    name: str
    source: Source
    record: ObjectRecord


def open_model(
    model: ListedModel, storage_options: Mapping[str, object] | None, options: StreamOptions
) -> list[RemoteFile]:
    """Open every wanted file of a model.

    Raises:
        FileNotFoundError: A source, or a file that the list names, is not there; or no file matches the patterns.
        PermissionError: A store denies it.
        FormatError: An index is not valid, or a place holds a name that is no plain path.
        ValueError: A URL is none, or a checksum is given for a file that is not the only one.
        SourceError, OSError: A store cannot be asked.
    """
    given = {**(storage_options or {}), **model.storage_options} or None
    with ExitStack() as opened, ThreadPoolExecutor(_OPENERS, "streamload-pull") as openers:
        named: dict[str, tuple[Store | None, str]] = {}
        for url in model.sources:
            for name, place in _names_at(url, model, given, options, opened).items():
                if name in named:
                    raise ValueError(f"{url}: holds {name!r}, as another source of this model does")
                named[name] = place
        wanted = [name for name in sorted(named) if _matches(name, model)]
        _check_names(model, wanted)
        sources = list(openers.map(lambda name: _open(named[name], given, options), wanted))
        only = model.sha256.get("") if len(wanted) == 1 else None
        if "" in model.sha256 and only is None:
            raise ValueError(f"{model.sources[0]}: one checksum is given for {len(wanted)} files; name each file's")
        return [
            RemoteFile(name, source, _record(source, named[name], _expected(name, model, only)))
            for name, source in zip(wanted, sources, strict=True)
        ]


def _names_at(
    url: str, model: ListedModel, given: Mapping[str, object] | None, options: StreamOptions, opened: ExitStack
) -> dict[str, tuple[Store | None, str]]:
    """Return which files a URL stands for: by name, how to open each."""
    path = re.split(r"[?#]", url, maxsplit=1)[0] if "://" in url else url
    directory, _, last = path.rstrip("/").rpartition("/")
    if model.files is not None and len(model.sources) == 1 and set(model.files) != {last}:
        store = open_store(url, storage_options=given, options=options)
        return {name: (store, name) for name in model.files}
    if last.endswith(_INDEX):
        store = open_store(directory or ".", storage_options=given, options=options)
        return {name: (store, name) for name in _follow_index(store, last)}
    if not path.endswith("/") and "." in last:  # most likely a file, and one question finds out
        try:
            open_source(url, storage_options=given, options=options).close()
        except (FileNotFoundError, IsADirectoryError):
            names = _listed(url, given, options)
            if not names:
                raise
            return names
        return {last: (None, url)}
    return _listed(url, given, options) or {last: (None, url)}


def _listed(
    url: str, given: Mapping[str, object] | None, options: StreamOptions
) -> dict[str, tuple[Store | None, str]]:
    """Return what a place holds, nothing where it cannot be listed or is no place."""
    try:
        store = open_store(url, storage_options=given, options=options)
        names = store.names(deep=True)
    except NotADirectoryError:
        return {}
    if names is None:
        return {}
    if len(names) > _MOST_FILES:
        raise FormatError(f"{store.url}: holds {len(names)} files, at most {_MOST_FILES} are pulled")
    for name in names:
        if not is_plain_path(name):
            raise FormatError(f"{store.url}: holds {name[:120]!r}, which is refused: expected {PLAIN_PATH}")
    return {name: (store, name) for name in names}


def _follow_index(store: Store, name: str) -> list[str]:
    with store.open(name) as source:
        if source.nbytes > MAX_JSON_NBYTES:
            raise FormatError(f"{source.url}: index of {source.nbytes} bytes, at most {MAX_JSON_NBYTES} are allowed")
        data = bytearray(source.nbytes)
        count = source.read_into(0, memoryview(data))
        if count != len(data):
            text = f"{source.url}: the source ended after {count} of {len(data)} bytes"
            raise ShortReadError(text, url=source.url, offset=0, nbytes=len(data))
        shards = parse_index(memoryview(data), url=source.url).weight_map.values()
    return [name, *dict.fromkeys(shards)]


def _open(place: tuple[Store | None, str], given: Mapping[str, object] | None, options: StreamOptions) -> Source:
    store, name = place
    return open_source(name, storage_options=given, options=options) if store is None else store.open(name)


def _matches(name: str, model: ListedModel) -> bool:
    return (not model.include or _any(name, model.include)) and not _any(name, model.exclude)


def _any(name: str, patterns: Iterable[str]) -> bool:
    last = name.rpartition("/")[2]
    return any(fnmatchcase(name, pattern) or fnmatchcase(last, pattern) for pattern in patterns)


def _check_names(model: ListedModel, wanted: list[str]) -> None:
    if not wanted:
        text = "no file here" + (" matches what is included and not excluded" if model.include or model.exclude else "")
        raise FileNotFoundError(errno.ENOENT, text, model.sources[0])
    for name in model.sha256:
        if name and name not in wanted:
            raise FileNotFoundError(errno.ENOENT, "not there, although a checksum is given for it", name)


def _expected(name: str, model: ListedModel, only: str | None) -> str:
    listed = model.files.get(name) if model.files is not None else None
    return only or model.sha256.get(name) or (listed.sha256 if listed is not None else None) or ""


def _record(source: Source, place: tuple[Store | None, str], expected: str) -> ObjectRecord:
    """Name the object. A 64-digit version of a Hub's file is its SHA-256: large files there are named by their sum."""
    etag = _version_of(source)
    record = ObjectRecord(source.url, source.nbytes, etag, expected)
    if not expected:
        known = getattr(source, "sha256", None)
        by_name = _SHA256_ETAG.fullmatch(etag) if source.url.startswith("hf://") else None
        record = replace(record, expected=known or (by_name[1] if by_name else ""))
    return record


def _version_of(source: Source) -> str:
    """Return what a source's store calls the version that was opened; empty where it has no word for it."""
    if isinstance(source, FileSource):
        stamp = source.stamp
        return f"{stamp.device:x}-{stamp.inode:x}-{stamp.mtime_ns:x}"
    version: tuple[tuple[str, str], ...] = getattr(source, "version", ())
    return str(getattr(source, "etag", "")) or " ".join([f"{name}={value}" for name, value in version])
