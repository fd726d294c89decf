"""Decide which files a model has at its sources, and open them.

Part of `_pull`. A source is a file, a place that can be listed (a prefix, a directory, a repository), or an index,
which stands for itself and its shards. Over plain HTTP nothing can be listed: there a place stands for the checkpoint
that `streamload.open` finds in it, and a list of models may name its files.
"""

from __future__ import annotations

import errno
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from .._checkpoint._objects import find_objects
from .._format import MAX_JSON_NBYTES, PLAIN_PATH, is_plain_path, parse_index
from .._sources import FileSource, is_remote, open_source, open_store, read_head, redact, split
from ..errors import FormatError, StreamClosedError
from ._partial import ObjectRecord
from ._wanted import is_file

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping

    from .._format import ListedModel
    from .._sources import Source, Store
    from ..options import StreamOptions

_INDEX: Final = ".index.json"
_OPENERS: Final = 16  # objects that are opened at once: one request each
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


@dataclass(frozen=True, slots=True)
class _Place:
    """How one file is opened: from a store by its name, or by its own URL; or it is open already."""

    store: Store | None
    name: str
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """Hold what opening the files of a model takes.

    Attributes:
        storage_options: For the stores of all models.
        options: How to read.
        head_bytes: How many bytes to bring with a file, by its path below the model's directory, as it is opened.
        stopped: Set before `stop_stores`: no place is opened any more.
        stores: Those that were opened.
    """

    storage_options: Mapping[str, object] | None
    options: StreamOptions
    head_bytes: Callable[[str], int]
    stopped: threading.Event
    stores: list[Store]

    def store(self, url: str) -> Store:
        """Return the place of a URL.

        Raises:
            StreamClosedError: The pull was stopped.
        """
        store = open_store(url, storage_options=self.storage_options, options=self.options)
        self.stores.append(store)
        if self.stopped.is_set():  # after it was appended: either this or `stop_stores` sees it
            stop_stores([store])
            raise StreamClosedError(f"{store.url}: the pull was stopped")
        return store

    def told_sha256(self, place: _Place, etag: str) -> str:
        """Return the SHA-256 that a store tells of a file; "" where it tells none."""
        store, name = place.store, place.name
        if store is None and is_remote(name):
            directory, name = split(name)
            store = self.store(directory)
        sha256_of = getattr(store, "sha256_of", None)
        return "" if sha256_of is None else str(sha256_of(name, etag))

    def open(self, place: _Place, name: str) -> Source:
        """Open a file."""
        if place.source is not None:
            return place.source
        if place.store is not None:
            return place.store.open(place.name, head_bytes=self.head_bytes(name))
        if not is_remote(place.name):
            return open_source(place.name)
        directory, last = split(place.name)
        return self.store(directory).open(last, head_bytes=self.head_bytes(name))


def stop_stores(stores: Iterable[Store]) -> None:
    """End what asks stores, from any thread, where they can: threads that wait for answers get an error at once."""
    for store in stores:
        stop = getattr(store, "stop", None)
        if stop is not None:
            stop()


def open_model(model: ListedModel, opening: Opening) -> list[RemoteFile]:
    """Open every wanted file of a model.

    Raises:
        FileNotFoundError: A source, or a file that the list names, is not there; or no file matches the patterns.
        PermissionError: A store denies it.
        FormatError: An index is not valid, or a place holds a name that is no plain path.
        ValueError: A URL is none, or a checksum is given for a file that is not the only one.
        SourceError, OSError: A store cannot be asked.
    """
    given = {**(opening.storage_options or {}), **model.storage_options} or None
    opening = replace(opening, storage_options=given)
    with ExitStack() as opened, ThreadPoolExecutor(_OPENERS, "streamload-pull") as openers:
        named: dict[str, _Place] = {}
        for url in model.sources:
            for name, place in _names_at(url, model, opening).items():
                if name in named:
                    raise ValueError(f"{redact(url)}: holds {name!r}, as another source of this model does")
                named[name] = place
                if place.source is not None:
                    opened.callback(place.source.close)
        wanted = [name for name in sorted(named) if _matches(name, model)]
        _check_names(model, wanted)
        if "" in model.sha256 and len(wanted) > 1:
            text = f"one checksum is given for {len(wanted)} files; name each file's"
            raise ValueError(f"{redact(model.sources[0])}: {text}")

        def open_file(name: str) -> RemoteFile:
            source = opening.open(named[name], name)
            record = ObjectRecord(source.url, source.nbytes, _version_of(source), _expected(name, model))
            if not record.expected:
                record = replace(record, expected=opening.told_sha256(named[name], record.etag))
            return RemoteFile(name, source, record)

        files = list(openers.map(open_file, wanted))
        opened.pop_all()
        return files


def _names_at(url: str, model: ListedModel, opening: Opening) -> dict[str, _Place]:
    """Return which files a URL stands for: by name, how to open each.

    Raises:
        FormatError: A name is no plain path.
    """
    found = _found_at(url, model, opening)
    refused = next((name for name in found if not is_plain_path(name)), None)
    if refused is None:
        return found
    for place in found.values():
        if place.source is not None:
            place.source.close()
    raise FormatError(f"{redact(url)!r}: holds {refused[:120]!r}, which is refused: expected {PLAIN_PATH}")


def _found_at(url: str, model: ListedModel, opening: Opening) -> dict[str, _Place]:
    path = re.split(r"[?#]", url, maxsplit=1)[0] if "://" in url else url
    last = path.rstrip("/").rpartition("/")[2]
    if model.files is not None and len(model.sources) == 1 and set(model.files) != {last}:
        base = split(url)[0] or "." if last.endswith(_INDEX) else url
        store = opening.store(base)
        return {name: _Place(store, name) for name in model.files}
    if last.endswith(_INDEX):
        store = opening.store(split(url)[0] or ".")
        return {name: _Place(store, name) for name in _follow_index(store, last)}
    if not path.endswith("/") and "." in last:  # most likely a file, and one question finds out
        try:
            source = opening.open(_Place(None, url), last)
        except (FileNotFoundError, IsADirectoryError):
            if names := _listed(url, opening):
                return names
            if names is not None or is_file(url):
                raise
        else:
            if is_file(url) or not _is_page(source, last):
                return {last: _Place(None, url, source)}
            source.close()
    names = _listed(url, opening)
    if names is None:
        return _unlisted(url, "" if path.endswith("/") else last, opening)
    return names or {last: _Place(None, url)}


def _unlisted(url: str, file: str, opening: Opening) -> dict[str, _Place]:
    """Return the files of a place that cannot be listed: those that `streamload.open` finds, or the URL's own file."""
    try:
        return _probed(url, opening)
    except (FileNotFoundError, PermissionError) as nothing:
        if not file:
            raise
        try:
            source = opening.open(_Place(None, url), file)
        except FileNotFoundError:
            raise nothing from None
        if not _is_page(source, file):
            return {file: _Place(None, url, source)}
        source.close()
        raise


def _probed(url: str, opening: Opening) -> dict[str, _Place]:
    found = find_objects(url, variant=None, storage_options=opening.storage_options, options=opening.options)
    for source in (found.index, *found.opened.values()):
        if source is not None:
            source.close()
    index = [] if found.index_url is None else [found.index_url.rpartition("/")[2]]
    return {name: _Place(found.store, name) for name in (*index, *found.names)}


def _is_page(source: Source, name: str) -> bool:
    """Whether a server answered with a page for people: the listing of a directory, say."""
    return getattr(source, "media_type", "") == "text/html" and not name.lower().endswith((".html", ".htm"))


def _listed(url: str, opening: Opening) -> dict[str, _Place] | None:
    """Return what a place holds, nothing where it is no place; None where it cannot be listed."""
    store = opening.store(url)
    names = store.names(deep=True)
    if names is None:
        return None
    if len(names) > _MOST_FILES:
        raise FormatError(f"{store.url}: holds {len(names)} files, at most {_MOST_FILES} are pulled")
    return {name: _Place(store, name) for name in names}


def _follow_index(store: Store, name: str) -> list[str]:
    with closing(store.open(name)) as source:
        if source.nbytes > MAX_JSON_NBYTES:
            raise FormatError(f"{source.url}: index of {source.nbytes} bytes, at most {MAX_JSON_NBYTES} are allowed")
        shards = parse_index(read_head(source, source.nbytes), url=source.url).weight_map.values()
    return [name, *dict.fromkeys(shards)]


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


def _expected(name: str, model: ListedModel) -> str:
    listed = model.files.get(name) if model.files is not None else None
    return model.sha256.get(name) or model.sha256.get("") or (listed.sha256 if listed is not None else None) or ""


def _version_of(source: Source) -> str:
    """Return what a source's store calls the version that was opened; empty where it has no word for it."""
    if isinstance(source, FileSource):
        stamp = source.stamp
        return f"{stamp.device:x}-{stamp.inode:x}-{stamp.mtime_ns:x}"
    version: tuple[tuple[str, str], ...] = getattr(source, "version", ())
    return str(getattr(source, "etag", "")) or " ".join([f"{name}={value}" for name, value in version])
