"""A place with names, seen through tiers: what it opens is kept, and offline it is what tiers hold.

Part of `_tiers`. Objects are found again by the URL they were opened by, without what signs it.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from .._http import HEAD_BYTES
from .._urls import join, redact, scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...options import StreamOptions
    from .. import Source
    from .._stores import Store

# Of presigned URLs and tokens: AWS (versions 4 and 2), Google, CloudFront, Azure's shared access signatures.
_SIGNING = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|s[vreptksi]|sig|"
    r"sk(oid|tid|t|e|s|v)|spr|sip|srt|ss|token|access_token",
    re.IGNORECASE,
)


class TieredStore:
    """Open objects of a place through the tiers that options name.

    Args:
        url: The place, as it was given.
        make: Makes the place itself; not called offline.
        options: Which tiers there are, and whether the store may be asked.
    """

    def __init__(self, url: str, make: Callable[[], Store], options: StreamOptions) -> None:
        self._place = url
        self._options = options
        self._store = None if options.offline else make()

    @property
    def url(self) -> str:
        """Name of the place, as error messages give it."""
        return redact(self._place) if self._store is None else self._store.url

    def names(self, *, deep: bool = False) -> set[str] | None:
        """Return the names of the objects here, relative to the place; None where they cannot be listed.

        Args:
            deep: Also those below: `unet/model.safetensors`.

        Raises:
            FileNotFoundError, PermissionError, SourceError: As the place does.
        """
        from . import known_names

        if self._store is not None:
            return self._store.names(deep=deep)
        found = {name.partition("#")[0] for name in known_names(redact(self._place), self._options)}
        return {name for name in found if deep or "/" not in name}

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> Source:
        """Open an object by its name.

        Args:
            name: Relative to the place.
            head_bytes: How many bytes to bring at once, where opening takes a request.

        Raises:
            FileNotFoundError: There is none of the name, or, offline, no tier holds any of it.
            PermissionError: The store denies it.
            SourceError: It cannot be read.
        """
        from . import attach, is_known, open_known

        known_as = name_of(join(self._place, name))
        if self._store is None:
            return open_known(known_as, self._options)
        # Of what is kept whole only the version is asked for.
        head_bytes = 1 if is_known(known_as, self._options) else head_bytes
        return attach(self._store.open(name, head_bytes=head_bytes), self._options, name=known_as)

    def stop(self) -> None:
        """End requests that are under way, where the place can; it opens nothing more."""
        stop = getattr(self._store, "stop", None)
        if stop is not None:
            stop()

    def __repr__(self) -> str:
        return f"TieredStore({self.url!r})"


def name_of(url: str) -> str:
    """Return what an object is found by again: its URL, and a digest of what a query says but who may ask and when."""
    query = url.partition("?")[2].partition("#")[0] if scheme_of(url) in ("http", "https") else ""
    said = [(key, value) for key, value in parse_qsl(query, keep_blank_values=True) if not _SIGNING.fullmatch(key)]
    if not said:
        return redact(url)
    return f"{redact(url)}#{hashlib.sha256(urlencode(said).encode()).hexdigest()[:16]}"
