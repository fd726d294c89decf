"""Keep a tier within its limit: what was used least lately goes first, and nothing goes that is in use.

Part of `_tiers`. Whole objects in use hold a lease (`_lease`), objects on their way a lock in their journal
(csrc/io/cache_file_paths.hpp). Objects on their way count with the length they will have.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ... import _native
from ._layout import JOURNAL_SUFFIX
from ._lease import evict, is_leased, take_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ._layout import Layout


@dataclass(frozen=True, slots=True)
class Entry:
    """Describe one object that a tier holds, or holds parts of.

    Attributes:
        url: Name of the object, without query and user info; "" where nobody knows any more.
        nbytes: Length of the object.
        etag: Its version, as the store tells it.
        stored_bytes: Space it takes.
        complete: Whether every byte is there.
        created: When it was first asked for, in seconds since 1970.
        used: When it was opened last, likewise.
        in_use: Whether a process has it open.
        key: What it is kept under.
    """

    url: str
    nbytes: int
    etag: str
    stored_bytes: int
    complete: bool
    created: float
    used: float
    in_use: bool
    key: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """Tell what a pruning removed.

    Attributes:
        entries: What is gone.
        freed_bytes: Space that it took.
        kept_bytes: Space that is taken still.
    """

    entries: tuple[Entry, ...]
    freed_bytes: int
    kept_bytes: int


def entries(layout: Layout) -> list[Entry]:
    """Return everything that a tier holds, what was used last first."""
    found = [_entry(layout, key, complete=True) for key in layout.object_keys()]
    found += [_entry(layout, key, complete=False) for key in layout.partial_keys()]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: -entry.used)


@contextlib.contextmanager
def making_room(layout: Layout, seconds: float | None = None) -> Iterator[None]:
    """Keep others from making room, and so from reckoning with the same free space; waits for them.

    Args:
        layout: The tier.
        seconds: How long is waited. None: as `take_lock`.

    Raises:
        TimeoutError: Somebody else made room for longer.
        OSError: The lock cannot be made.
    """
    descriptor = os.open(layout.lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        take_lock(descriptor, fcntl.LOCK_EX, layout.lock_path, seconds)
        yield
    finally:
        os.close(descriptor)


def make_room(layout: Layout, key: str, nbytes: int, limit: int | None) -> bool:
    """Evict until an object fits, below the limit and on the file system; tell whether it does. Under `making_room`.

    Nothing is evicted where all that is not in use would be too little.

    Raises:
        OSError: The tier cannot be read, or nothing can be removed.
    """
    if limit is not None and nbytes > limit:
        return False
    own = stored_bytes(layout.partial_path(key))
    if limit is None and _free_bytes(layout.root) + own >= nbytes:
        return True
    others = [entry for entry in entries(layout) if entry.key != key]
    idle = [entry for entry in others if not entry.in_use]
    staying = sum(map(_reserved, others)) - sum(map(_reserved, idle))
    if limit is not None and nbytes + staying > limit:
        return False
    if _free_bytes(layout.root) + own + sum(entry.stored_bytes for entry in idle) < nbytes:
        return False
    while others:
        fits = limit is None or nbytes + sum(map(_reserved, others)) <= limit
        if fits and _free_bytes(layout.root) + own >= nbytes:
            return True
        victim = next((entry for entry in reversed(others) if _remove(layout, entry)), None)
        if victim is None:
            return False
        others.remove(victim)
    return _free_bytes(layout.root) + own >= nbytes


def prune(layout: Layout, limit: int | None) -> Pruned:
    """Remove parts of objects that nobody has open, and files about objects that are gone; then what is over a limit.

    Raises:
        OSError: The tier cannot be read, or something cannot be removed.
    """
    with making_room(layout):
        found = entries(layout)
        gone = [entry for entry in found if not entry.complete and _remove(layout, entry)]
        kept = [entry for entry in found if entry not in gone]
        total = sum(entry.stored_bytes for entry in kept)
        for entry in reversed(kept) if limit is not None else ():
            if limit is not None and total > limit and _remove(layout, entry):
                total -= entry.stored_bytes
                gone.append(entry)
        _sweep(layout)
    return Pruned(tuple(gone), sum(entry.stored_bytes for entry in gone), total)


def stored_bytes(path: Path) -> int:
    """Return the space a file takes, 0 where there is none."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _entry(layout: Layout, key: str, *, complete: bool) -> Entry | None:
    path = layout.object_path(key) if complete else layout.partial_path(key)
    journal = path.with_name(path.name + JOURNAL_SUFFIX)
    try:
        status = path.stat()
    except FileNotFoundError:
        if complete or not journal.exists():
            return None  # published or evicted meanwhile
        status = journal.stat()
    facts = layout.facts_of(key)
    return Entry(
        url="" if facts is None else facts.url,
        nbytes=status.st_size if facts is None else facts.nbytes,
        etag="" if facts is None else facts.etag,
        stored_bytes=status.st_blocks * 512,
        complete=complete,
        created=status.st_ctime if facts is None else facts.created,
        used=layout.used_at(key),
        in_use=is_leased(path) if complete else _is_open(journal),
        key=key,
    )


def _is_open(journal: Path) -> bool:
    """Whether a process has an object on its way open: its presence lock (csrc/io/cache_file_paths.hpp) is held."""
    try:
        descriptor = os.open(journal, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        # struct flock: type, whence, start, length, pid (fcntl(2))
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1, 1, 0)
        answer = fcntl.fcntl(descriptor, _F_OFD_GETLK, asked)
        return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)


_F_OFD_GETLK = 36  # fcntl(2); the module names it from Python 3.12 on


def _reserved(entry: Entry) -> int:
    return entry.stored_bytes if entry.complete else max(entry.nbytes, entry.stored_bytes)


def _remove(layout: Layout, entry: Entry) -> bool:
    """Remove an object unless it is in use; its facts go with it. Tell whether it is gone."""
    if entry.complete:
        gone = evict(layout.object_path(entry.key))
    else:
        try:
            gone = _native.CacheFile.remove(os.fsencode(layout.partial_path(entry.key)))
        except _native.NativeError as error:
            raise OSError(error.system_code, str(error)) from error
    if gone and not layout.object_path(entry.key).exists() and not layout.partial_path(entry.key).exists():
        layout.entry_path(entry.key).unlink(missing_ok=True)
    return gone


def _free_bytes(root: Path) -> int:
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize


def _sweep(layout: Layout) -> None:
    """Remove small files that were left half-written, and those about objects that are not there."""
    there = {*layout.object_keys(), *layout.partial_keys()}
    for path in list(layout.small_files()):
        if path.suffix != ".json" or (path.parent.name == "entries" and path.stem not in there):
            path.unlink(missing_ok=True)
    for url in list(layout.urls()):
        if layout.key_of(url) not in there:
            layout.url_path(url).unlink(missing_ok=True)
