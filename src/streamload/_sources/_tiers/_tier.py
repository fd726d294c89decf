"""One directory that objects are kept in: find them, begin them, and say once when that cannot be done.

Part of `_tiers`. Nothing that fails here fails a load: it goes on without the tier.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, Final

from ... import _native
from ._advice import FREE_SPACE, advice_for, file_system_of
from ._layout import Layout
from ._lease import CachedFile, Lease
from ._room import make_room, making_room

if TYPE_CHECKING:
    from ._layout import Facts

_LOG = logging.getLogger(__name__)


class Tier:
    """Keep objects in one directory.

    Args:
        directory: Where; made when it is needed first.
    """

    def __init__(self, directory: str) -> None:
        self.layout = Layout(directory)

    def is_trusted(self) -> bool:
        """Whether only this user can have put into the directory what is in it; else that is said once."""
        try:
            self.layout.check()
        except OSError as error:
            self.warn("is not used", error, _OWN)
            return False
        return True

    def find(self, facts: Facts) -> CachedFile | None:
        """Return the whole object, where it is kept, and mark it as used."""
        key = facts.key
        path = self.layout.object_path(key)
        try:
            self.layout.check_object(key)
            lease = Lease.take(path, self._patience)
            if lease is None:
                return None
            found = CachedFile(path, facts.url, lease)
        except OSError as error:
            self._warn_of("cannot be read", error)
            return None
        del lease
        if self._was_altered(found, facts):
            found.close()
            self._drop_altered(found, facts)
            return None
        with contextlib.suppress(OSError):  # only ages and listings suffer
            self.layout.remember(facts)
        return found

    def note_published(self, facts: Facts) -> None:
        """Write down when a whole object was written last, so that a later change is noticed; nothing for others."""
        found = self.find(facts)
        if found is not None:
            found.close()

    def _was_altered(self, found: CachedFile, facts: Facts) -> bool:
        """Whether somebody wrote to a whole object, which nobody does; the first look at it is what others go by."""
        mtime_ns = self.layout.mtime_of(facts.key)
        if mtime_ns is None and found.nbytes == facts.nbytes:
            with contextlib.suppress(OSError):  # then the next look is the first
                self.layout.record_mtime(facts, found.stamp.mtime_ns)
            return False
        return (found.stamp.nbytes, found.stamp.mtime_ns) != (facts.nbytes, mtime_ns)

    def _drop_altered(self, found: CachedFile, facts: Facts) -> None:
        _LOG.warning(
            "the cache in %s: the file of %s was altered after it was written; it is dropped, and loaded anew",
            self.layout.root,
            facts.url,
        )
        with contextlib.suppress(OSError):  # it stays, and is no more believed the next time
            found.lease.discard(self.layout.object_path(facts.key))

    def begin(self, facts: Facts, limit: int | None, *, in_memory: bool) -> _native.CacheFile | None:
        """Open the file that parts of the object go to, and are read from; None where there is no room for it.

        Args:
            facts: What the object is.
            limit: Most bytes that the tier may take.
            in_memory: Whether the directory should be in memory.
        """
        key, layout = facts.key, self.layout
        try:
            layout.make()
            if in_memory:
                self._check_memory()
            layout.make_object_folder(key)
            layout.check_partial(key)
            with making_room(layout, self._patience):
                if not make_room(layout, key, facts.nbytes, limit):
                    self._warn_of_room(facts, limit, "memory_bytes" if in_memory else "cache_bytes")
                    return None
                layout.remember(facts)
                if layout.mtime_of(key) is not None and not layout.object_path(key).exists():
                    layout.record_mtime(facts, None)  # of one that was evicted
                partial = os.fsencode(layout.partial_path(key))
                cache = _native.CacheFile(
                    partial,
                    facts.nbytes,
                    bytes.fromhex(key),
                    publish_path=os.fsencode(layout.object_path(key)),
                )
                # Another process may have published it since `find`; then this file is a new one, and in the way.
                if layout.object_path(key).exists() and not cache.complete:
                    del cache
                    _native.CacheFile.remove(partial)
                    return None
                return cache
        except OSError as error:
            self._warn_of("cannot be written", error)
        except _native.NativeError as error:
            self.warn("cannot be written", OSError(error.system_code, str(error)))
        return None

    def check(self, cache: _native.CacheFile) -> None:
        """Say it once if an object's file was switched off because it could not be written."""
        if cache.broken:
            self.warn("cannot be written", OSError(cache.broken, os.strerror(cache.broken)))

    @property
    def _patience(self) -> float | None:
        """How long to wait for a lock: hardly where that was in vain before, for there may be many objects."""
        return _IMPATIENT_SECONDS if self._key_of(errno.ETIMEDOUT) in _SAID else None

    def _key_of(self, number: int | None) -> str:
        return f"{self.layout.root}, {number}"

    def _warn_of(self, what: str, error: OSError) -> None:
        if isinstance(error, TimeoutError):
            self.warn("is locked", error, "end that process")
        else:
            self.warn(what, error)

    def warn(self, what: str, error: OSError, advice: str | None = None) -> None:
        """Say once for a directory and a reason, through `logging`, that it is not used, or not for everything."""
        advice = advice_for(error) if advice is None else advice
        self._say_once(
            self._key_of(error.errno), f"{what}: {error}; weights are loaded without it. To use it, {advice}"
        )

    def _warn_of_room(self, facts: Facts, limit: int | None, name: str) -> None:
        error = OSError(errno.ENOSPC, f"{facts.url} takes {facts.nbytes} bytes")
        if limit is None:
            self.warn("has no room", error)
        elif facts.nbytes > limit:
            self.warn("has no room", error, f"raise {name}, which is {limit}")
        else:
            self.warn("has no room", error, f"raise {name}, which is {limit}, or {FREE_SPACE}")

    def _check_memory(self) -> None:
        """Say it once if what should be in memory is on a drive."""
        key = f"{self.layout.root} is no memory"
        kind = None if key in _SAID else file_system_of(self.layout.root)
        if kind is not None:
            self._say_once(key, f"is on {kind}, and memory_dir means memory: give a directory on tmpfs (/dev/shm, say)")

    def _say_once(self, key: str, text: str) -> None:
        said = key in _SAID
        _SAID.add(key)
        _LOG.log(logging.DEBUG if said else logging.WARNING, "the cache in %s %s", self.layout.root, text)


_OWN: Final = "give a directory of this user's own, and take away what others may do there (`chmod go-w`)"
_IMPATIENT_SECONDS: Final = 0.1
_SAID: Final[set[str]] = set()
