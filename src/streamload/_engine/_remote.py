"""Hand remote objects over to the native engine, which fetches them by libcurl.

Floor 3, part of `_engine`. Where libcurl cannot be loaded, such a source is read like any other, through `read_into`.
The native half is csrc/http; read csrc/http/http_loop.hpp next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _native
from ._failures import raise_typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._sources import HttpSource


class Renewal:
    """Let native threads renew a request, and keep the first exception that it raised."""

    def __init__(self, source: HttpSource) -> None:
        self._source = source
        self.url = source.url
        self.error: BaseException | None = None
        self.request_counts: Mapping[str, int] = {}  # the engine's own requests are counted there

    def renew(self, status: int, /) -> tuple[str, list[str]]:
        try:
            return self._source.renew(status)
        except BaseException as error:  # a thread's top: the caller's thread raises it
            if self.error is None:
                self.error = error
            raise


class RemoteClient:
    """Own the native HTTP client that a pool's loads share, made at first use. Thread-safe.

    Args:
        connections: Most requests under way; 0: as many as bandwidth and latency ask for.
        threads: Threads that receive.
        library: What libcurl is loaded as.
    """

    def __init__(self, *, connections: int, threads: int, library: str = "libcurl.so.4") -> None:
        self._library = library
        self._connections = connections
        self._threads = threads
        self._native: _native.HttpClient | None = None
        self._missing = False

    def native(self) -> _native.HttpClient | None:
        """Return the client, or None where there is no libcurl.

        Raises:
            SourceError: The system has no room for it.
        """
        if self._native is None and not self._missing:
            try:
                # Two threads may both make one; the loser's serves its own load and ends with it.
                self._native = _native.HttpClient(
                    library=self._library, connections=self._connections, threads=self._threads
                )
            except _native.NativeError as error:
                if error.code != "no_library":
                    raise_typed(error)
                self._missing = True
        return self._native

    def close(self) -> None:
        """End what is under way and join the threads. Harmless when repeated."""
        if self._native is not None:
            self._native.close()


def open_remote(client: _native.HttpClient, source: HttpSource, renewal: Renewal) -> _native.Source:
    """Return the native source of a remote object.

    Raises:
        _native.NativeError: A URL or a header is malformed.
        PermissionError: There are no credentials.
    """
    url, headers, ca_file = source.request()
    return _native.http_source(
        client,
        source.url,
        source.nbytes,
        source.answer_etag,  # a weak one is compared with each answer's, and never sent
        url,
        headers,
        ca_file,
        renewal.renew,
        source.policy,
    )
