"""Decide which objects of a store a URL stands for, and open them many at a time.

Part of `_checkpoint`. The choice is that of `_files`; where a place cannot be listed, the names that a checkpoint
usually has are tried in the same order. Every object costs one request, which brings its header.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from .._sources import HEAD_BYTES, Source, Store, is_root, open_store, redact, split
from ..errors import SourceError
from ._files import STEMS, SUFFIX, ShardIndex, choose, expected_names, is_pickle_name, read_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from typing import Protocol

    from .._format import Header
    from ..options import StreamOptions

    class ReadHeader(Protocol):
        """Read the header of an open shard."""

        def __call__(self, source: Source, *, shard: int) -> Header: ...


K = TypeVar("K")
T = TypeVar("T")

_MOST_THREADS = 32
_ENTRY_BYTES = 130  # of a header, for each tensor beside its name: dtype, shape, two offsets, punctuation


@dataclass(slots=True)
class Objects:
    """List the shards of a checkpoint in a store.

    Attributes:
        store: Where they are.
        names: Their names there, each once.
        index_url: The index they come from, None where there is none.
        shard_index: What the index says, its shards in the order of `names`; None without one.
        opened: Those that are open already, because that was the way to find them.
        index: The open index, so that the connection it came through serves the shards; None where there is none.
    """

    store: Store
    names: Sequence[str]
    index_url: str | None = None
    shard_index: ShardIndex | None = None
    opened: dict[str, Source] = field(default_factory=dict)
    index: Source | None = None

    def open_beside(self, name: str) -> Source:
        """Open another object in the directory of the first shard, by its name; errors as those of `Store.open`."""
        folder, slash, _ = self.names[0].rpartition("/") if self.names else ("", "", "")
        return self.store.open(f"{folder}{slash}{name}")

    def open_all(self, stack: contextlib.ExitStack, read_header: ReadHeader) -> list[tuple[Source, Header]]:
        """Open every shard and read its header; the stack closes them.

        Raises:
            FileNotFoundError, PermissionError, FormatError, SourceError: Of the first shard that fails.
        """
        for source in self.opened.values():
            stack.callback(source.close)
        with contextlib.ExitStack() as meanwhile:
            if self.index is not None:
                meanwhile.callback(self.index.close)
            return self._open_all(stack, read_header)

    def _open_all(self, stack: contextlib.ExitStack, read_header: ReadHeader) -> list[tuple[Source, Header]]:
        guesses = self._guesses()

        def work(number: int) -> tuple[Source, Header]:
            source = self._open(number, guesses[number])
            stack.callback(source.close)
            header = read_header(source, shard=number)
            forget = getattr(source, "forget_head", None)
            if forget is not None:
                forget()
            return source, header

        return _at_once(self.store, work, range(len(self.names)))

    def _open(self, number: int, head_bytes: int) -> Source:
        name = self.names[number]
        if name in self.opened:
            return self.opened[name]
        try:
            return self.store.open(name, head_bytes=head_bytes)
        except FileNotFoundError as error:
            if self.index_url is None or isinstance(error, SourceError):  # which says that it is not kept
                raise
            text = f"{error.strerror}: a shard that {self.index_url} names"
            raise FileNotFoundError(errno.ENOENT, text, error.filename) from error

    def _guesses(self) -> list[int]:
        """Return how long each shard's header will be, about."""
        if self.shard_index is None:
            return [HEAD_BYTES] * len(self.names)
        lengths = dict.fromkeys(self.shard_index.shards, 0)
        for name, shard in self.shard_index.weight_map.items():
            lengths[shard] += len(name) + _ENTRY_BYTES
        return [max(16 << 10, -(-length // 4096) * 4096) for length in lengths.values()]


def find_objects(
    url: str,
    *,
    variant: str | None,
    storage_options: Mapping[str, object] | None,
    options: StreamOptions | None,
) -> Objects:
    """Return the objects of the checkpoint at a URL: an object, an index or a prefix.

    Raises:
        ValueError: A variant is given for a single object, is no part of a name, or several indices compete.
        FileNotFoundError: Nothing of the kind is there.
        FormatError: The index is not valid, or there are only pickle files.
        PermissionError, SourceError: The store denies access, or cannot be asked.
    """
    if variant is not None and (not variant or not {"/", "\0"}.isdisjoint(variant)):
        raise ValueError(f"expected a variant such as 'fp16', got {variant!r}")
    directory, name = split(url)
    if is_root(url):  # the name is a bucket's, which is a place
        directory = name = ""
    if name.endswith((SUFFIX, ".index.json")) or is_pickle_name(name):
        if variant is not None:
            raise ValueError(f"{redact(url)}: a variant ({variant!r}) is chosen in a directory, and this is none")
        store = open_store(directory, storage_options=storage_options, options=options)
        return _follow(store, name) if name.endswith(".index.json") else Objects(store, [name])
    store = open_store(url, storage_options=storage_options, options=options)
    names = store.names()
    if names is None:
        return _probe(store, variant, url)
    if not names and name and variant is None:
        parent = open_store(directory, storage_options=storage_options, options=options)
        try:
            return Objects(parent, [name], opened={name: parent.open(name)})
        except FileNotFoundError as error:
            if isinstance(error, SourceError):  # not kept, and `offline`: nobody knows what there is
                raise
            text = f"{error.strerror}, and nothing below it"
            raise FileNotFoundError(errno.ENOENT, text, redact(url)) from error
    index, shards = choose(names, variant, where=store.url)
    return Objects(store, shards) if index is None else _follow(store, index)


def _follow(store: Store, name: str, source: Source | None = None) -> Objects:
    source = store.open(name) if source is None else source
    try:
        index = read_index(source)
    except BaseException:
        source.close()
        raise
    directory, slash, _ = name.rpartition("/")
    return Objects(store, [f"{directory}{slash}{shard}" for shard in index.shards], source.url, index, index=source)


def _probe(store: Store, variant: str | None, url: str) -> Objects:
    """Try the names that a checkpoint usually has, in the order in which a directory is searched for them.

    A whole checkpoint and its index are asked for at once: which of them is there costs one round trip.
    """
    tried: list[str] = []
    denied: list[PermissionError] = []  # what stores say of what is missing, too, where listing is denied
    for stem in STEMS:
        single, indices = expected_names(stem, variant)
        tried += (single, *indices)
        found: dict[str, Source] = {}
        try:
            _at_once(store, lambda name: _look(store, name, found, denied), (single, *indices))  # noqa: B023 - ends here
            name = next((name for name in (single, *indices) if name in found), None)
            source = None if name is None else found.pop(name)
        finally:
            for other in found.values():
                other.close()
        if name is not None and source is not None:
            return Objects(store, [name], opened={name: source}) if name == single else _follow(store, name, source)
    if denied:
        raise denied[-1]
    raise FileNotFoundError(
        errno.ENOENT,
        f"this place cannot be listed, and has none of {', '.join(tried)}; give the URL of a file or an index",
        store.url,
    )


def _look(store: Store, name: str, found: dict[str, Source], denied: list[PermissionError]) -> None:
    try:
        found[name] = store.open(name)
    except FileNotFoundError:
        return
    except PermissionError as error:
        denied.append(error)


def _at_once(store: Store, work: Callable[[K], T], items: Sequence[K]) -> list[T]:
    """Do work that asks a store for each item, many at a time; after the first failure the rest is given up."""
    from concurrent.futures import ThreadPoolExecutor  # 10 ms, and local files do without

    if len(items) == 1:
        return [work(items[0])]
    with ThreadPoolExecutor(min(_MOST_THREADS, len(items)), "streamload-open") as pool:
        pending: list[Future[T]] = []
        try:
            for item in items:
                pending.append(pool.submit(work, item))
            return [each.result() for each in pending]
        except BaseException:
            for each in pending:
                each.cancel()
            stop = getattr(store, "stop", None)
            if stop is not None:  # or the pool waits for as long as requests are tried again
                stop()
            raise
