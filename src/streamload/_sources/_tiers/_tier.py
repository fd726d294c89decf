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
            self.warn("is not used", error)
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
            if found.nbytes != facts.nbytes:  # cut off by somebody: only whole objects are put there
                found.close()
                lease.discard(path)
                text = f"{facts.url} is {found.nbytes} bytes long there, expected {facts.nbytes}, and is fetched anew"
                self.warn("was changed by somebody", OSError(errno.EIO, text, str(path)))
                return None
        except OSError as error:
            self.warn("is locked" if isinstance(error, TimeoutError) else "cannot be read", error)
            return None
        with contextlib.suppress(OSError):  # only ages and listings suffer
            self.layout.remember(facts)
        return found

    def begin(self, facts: Facts, limit: int | None, *, lossless: bool) -> _native.CacheFile | None:
        """Open the file that parts of the object go to, and are read from; None where there is no room for it.

        Args:
            facts: What the object is.
            limit: Most bytes that the tier may take.
            lossless: Whether a load rather waits than leaves a part out.
        """
        key, layout = facts.key, self.layout
        try:
            layout.make()
            layout.make_object_folder(key)
            layout.check_partial(key)
            with making_room(layout, self._patience):
                if not make_room(layout, key, facts.nbytes, limit):
                    self.warn("has no room", OSError(errno.ENOSPC, f"{facts.url} takes {facts.nbytes} bytes"))
                    return None
                layout.remember(facts)
                partial = os.fsencode(layout.partial_path(key))
                cache = _native.CacheFile(
                    partial,
                    facts.nbytes,
                    bytes.fromhex(key),
                    lossless=lossless,
                    publish_path=os.fsencode(layout.object_path(key)),
                )
                # Another process may have published it since `find`; then this file is a new one, and in the way.
                if layout.object_path(key).exists() and not cache.complete:
                    del cache
                    _native.CacheFile.remove(partial)
                    return None
                return cache
        except OSError as error:
            self.warn("is locked" if isinstance(error, TimeoutError) else "cannot be written", error)
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
        return _IMPATIENT_SECONDS if (str(self.layout.root), errno.ETIMEDOUT) in _SAID else None

    def warn(self, what: str, error: OSError) -> None:
        """Say once for a directory and a reason, through `logging`, that it is not used, or not for everything."""
        about = (str(self.layout.root), error.errno)
        said = about in _SAID
        _SAID.add(about)
        _LOG.log(
            logging.DEBUG if said else logging.WARNING,
            "the cache in %s %s: %s; weights are loaded without it.%s",
            self.layout.root,
            what,
            error,
            _ADVICE.get(error.errno or 0, ""),
        )


_ROOM = " Free some space, or run `streamload cache prune`"
_ADVICE: Final = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: " Name a directory that is this user's alone (`chmod 700`)",
}

_IMPATIENT_SECONDS: Final = 0.1
_SAID: Final[set[tuple[str, int | None]]] = set()
