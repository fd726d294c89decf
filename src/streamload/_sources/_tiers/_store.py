"""A place with names, seen through tiers: what it opens is kept, and offline it is what tiers hold.

Part of `_tiers`. Objects are found again by the URL they were opened by, without what signs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._http import HEAD_BYTES
from .._urls import join, redact
from ._names import name_of, path_in, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...options import StreamOptions
    from .. import Source
    from .._stores import Store


class TieredStore:
    """Open objects of a place through the tiers that options name.

    Args:
        url: The place, as it was given.
        make: Makes the place itself; not called offline.
        options: Which tiers there are, and whether the store may be asked.
        storage_options: Of the place: the same URL means another object at another endpoint.
    """

    def __init__(
        self,
        url: str,
        make: Callable[[], Store],
        options: StreamOptions,
        storage_options: Mapping[str, object] | None = None,
    ) -> None:
        self._place = url
        self._storage_options = storage_options
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
        place = shown(self._place).rstrip("/")
        found = {(path_in(self._place, rest), rest) for rest in known_names(place, self._options)}
        # What would not be found by its name here is of another endpoint, or what another query asked for.
        here = {name for name, rest in found if self._known_as(name) == f"{place}/{rest}"}
        return {name for name in here if deep or "/" not in name}

    def _known_as(self, name: str) -> str:
        return name_of(join(self._place, name), self._storage_options)

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> Source:
        """Open an object by its name.

        Args:
            name: Relative to the place.
            head_bytes: How many bytes to bring at once, where opening takes a request.

        Raises:
            FileNotFoundError: There is none of the name, or, offline, no tier holds any of it: then a `SourceError`,
                too.
            PermissionError: The store denies it.
            SourceError: It cannot be read.
        """
        from . import attach, is_known, open_known

        known_as = self._known_as(name)
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
