"""Keep what streams from a store: in memory that the processes of a machine share, on its drive, or both.

Part of `_sources`. `attach` puts the tiers that options name before a source: an object that is whole comes back as a
file, another is read through a file that fills on the way. Nothing is believed but by version and length: the store's
answer when the source was opened, or, offline, the one before. Read `_layout` for what lies where, `_room` for limits,
csrc/io/cache_file.hpp for how processes share a file.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Final

from ..._native import NativeError
from .._http import HEAD_BYTES
from ._layout import Facts, Layout
from ._lease import CachedFile
from ._room import Entry, Pruned
from ._room import entries as _entries
from ._room import prune as _prune
from ._source import NotKeptError, OfflineSource, TieredSource
from ._store import TieredStore
from ._tier import Tier

if TYPE_CHECKING:
    import os

    from ..._native import CacheFile
    from ...options import StreamOptions
    from .. import Source

__all__ = [
    "CachedFile",
    "Entry",
    "NotKeptError",
    "Pruned",
    "TieredSource",
    "TieredStore",
    "attach",
    "check_tier",
    "is_known",
    "known_names",
    "list_entries",
    "local_file",
    "open_known",
    "prune",
]


_VERSIONS: Final = ("ETag", "etag", "generation", "VersionId", "version_id")


def attach(source: Source, options: StreamOptions, *, name: str | None = None) -> Source:
    """Put the tiers of `options` before a source of a store.

    Args:
        source: An open object, whose `etag` or `version` says which it is; without one nothing is kept of it.
        options: Which tiers there are.
        name: What the object is found by offline. None: the source's URL.

    Returns:
        A file where the object is kept whole, and the source is closed; else a source that reads through a tier;
        else the source, where there is none or it cannot be written, which is said once through `logging`.
    """
    etag = _version_of(source)
    tiers = _tiers_of(options)
    if not etag or not tiers:
        return source
    facts = Facts(source.url if name is None else name, source.nbytes, etag, time.time())
    for tier, _, _ in tiers:
        found = tier.find(facts)
        if found is not None:
            source.close()
            return found
    head: bytes = getattr(source, "head", b"")
    for tier, limit, in_memory in reversed(tiers):
        cache = tier.begin(facts, limit, in_memory=in_memory)
        tiered = None
        if cache is not None:
            _put_head(cache, head)
            tiered = TieredSource(source, cache, tier, facts, in_memory=in_memory)
        found = tier.find(facts) if tiered is None else tiered.published()
        if found is not None:
            source.close()
            return found
        source = source if tiered is None else tiered
    return source


def open_known(url: str, options: StreamOptions) -> Source:
    """Open what tiers hold of an object, whole or in part, and ask no store.

    Args:
        url: Name of the object, as `attach` was told it.
        options: Which tiers there are.

    Raises:
        NotKeptError: No tier holds any of it, or there is none.
    """
    for tier, _, in_memory in _known_tiers(options):
        key = tier.layout.key_of(url)
        facts = None if key is None else tier.layout.facts_of(key)
        if key is None or facts is None:
            continue
        found = tier.find(facts)
        if found is not None:
            return found
        if not tier.layout.partial_path(key).exists():
            continue
        cache = tier.begin(facts, None, in_memory=in_memory)
        if cache is not None:
            return TieredSource(OfflineSource(facts, _known_head(cache)), cache, tier, facts, in_memory=in_memory)
    raise NotKeptError(f"{url}: not in the cache, and `offline` forbids to ask the store", url=url)


def is_known(url: str, options: StreamOptions) -> bool:
    """Whether a tier holds the whole object that a URL was last; it may be another one by now."""
    for tier, _, _ in _tiers_of(options):
        key = tier.layout.key_of(url)
        if key is not None and tier.layout.object_path(key).exists():
            return True
    return False


def known_names(url: str, options: StreamOptions) -> set[str]:
    """Return the names, below a URL, of the objects that tiers know.

    Raises:
        NotKeptError: There is no tier.
    """
    prefix = url.rstrip("/") + "/"
    found = {known for tier, _, _ in _known_tiers(options) for known in tier.layout.urls()}
    return {known.removeprefix(prefix) for known in found if known.startswith(prefix)}


def local_file(source: Source) -> CachedFile | None:
    """Fetch all of an object into its tier and return it as a file, the caller's to close; blocks.

    None: it has no tier, or the tier cannot hold it.

    Raises:
        SourceError: The store could not be read.
        StreamClosedError: The source is closed.
    """
    return source.complete() if isinstance(source, TieredSource) else None


def check_tier(directory: str | os.PathLike[str]) -> None:
    """Make sure that a directory is that of a tier; writes nothing.

    Raises:
        FileNotFoundError: There is no such directory.
        NotADirectoryError: It is another directory, or one that nothing was ever kept in.
    """
    layout = _existing(directory)
    if not layout.made:
        raise NotADirectoryError(errno.ENOTDIR, "not a cache directory: nothing was ever kept here", str(layout.root))


def list_entries(directory: str | os.PathLike[str]) -> list[Entry]:
    """Return what a tier holds, what was used last first.

    Raises:
        OSError: The directory cannot be read.
    """
    return _entries(_existing(directory))


def prune(directory: str | os.PathLike[str], max_bytes: int | None = None) -> Pruned:
    """Remove from a tier what no process has open and nobody goes on with: parts of objects.

    Args:
        directory: Where the tier is.
        max_bytes: Then remove whole objects, what was used least lately first, until this many bytes are left. None:
            keep them.

    Raises:
        FileNotFoundError: There is no such directory.
        OSError: It cannot be read, or something cannot be removed.
    """
    return _prune(_existing(directory), max_bytes)


def _version_of(source: Source) -> str:
    """Return what changes whenever the object does; "" where the source knows nothing of the kind.

    Times do not: many file systems and servers count them in seconds.
    """
    etag: str = getattr(source, "etag", "") or ""
    version: tuple[tuple[str, str], ...] = getattr(source, "version", ())
    return etag or "\n".join([f"{name}={value}" for name, value in version if name in _VERSIONS])


def _existing(directory: str | os.PathLike[str]) -> Layout:
    from os import fspath

    layout = Layout(fspath(directory))
    if not layout.root.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(layout.root))
    return layout


def _tiers_of(options: StreamOptions) -> list[tuple[Tier, int | None, bool]]:
    """Return the tiers that can be believed."""
    return [named for named in _named_tiers(options) if named[0].is_trusted()]


def _named_tiers(options: StreamOptions) -> list[tuple[Tier, int | None, bool]]:
    """Return the tiers from the fastest on, with their limits, and whether a load waits for them to be written."""
    found: list[tuple[Tier, int | None, bool]] = []
    if options.memory_dir is not None:
        found.append((Tier(options.memory_dir), options.memory_bytes, True))
    if options.cache_dir is not None:
        found.append((Tier(options.cache_dir), options.cache_bytes, False))
    return found


def _known_tiers(options: StreamOptions) -> list[tuple[Tier, int | None, bool]]:
    """Return the tiers that there are already.

    Raises:
        NotKeptError: There is none.
    """
    tiers = _named_tiers(options)
    there = [known for known in tiers if known[0].layout.root.is_dir()]
    found = [known for known in there if known[0].is_trusted()]
    if not found:
        roots = ", ".join([str(tier.layout.root) for tier, _, _ in there or tiers])
        what = "others may have written to it" if there else "there is no such directory"
        raise NotKeptError(f"{what}: {roots}, and `offline` forbids to ask the store", url=roots)
    return found


def _known_head(cache: CacheFile) -> bytes:
    """Return the first bytes of an object as far as they are there, and a header is long."""
    nbytes = min(HEAD_BYTES, cache.nbytes)
    gaps = cache.missing(0, nbytes)
    head = bytearray(gaps[0][0] if gaps else nbytes)
    try:
        if head:
            cache.read_into(0, memoryview(head))
    except NativeError:  # a file that was cut off or a drive that fails: it has nothing
        return b""
    return bytes(head)


def _put_head(cache: CacheFile, head: bytes) -> None:
    """Keep the bytes that came with the opening; where somebody else is at it, they do."""
    if not head or cache.covers(0, len(head)):
        return
    claim = cache.try_claim(0, len(head))
    if claim is not None:
        cache.put(0, head)
        claim.release()
