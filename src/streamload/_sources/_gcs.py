"""`gs://`: objects of Google Cloud Storage, with gcsfs's options and credentials.

Floor 1, part of `_sources`. gcsfs finds the credentials and lists; requests carry its token in a header, and go to the
XML API, which knows `Range` and `If-Match`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ._connections import Connections
from ._fsspec import FsspecStore, typed
from ._signers import Signed
from ._stores import HttpStore, missing_library, policy_of
from ._urls import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import StreamOptions

_GOOD_SECONDS = 240.0  # google.auth renews a token that has less than 225 s left (`google.auth._helpers`)


class GcsSigner:
    """Ask for an object with gcsfs's token."""

    def __init__(self, fs: Any, path: str) -> None:  # noqa: ANN401 - gcsfs has no types
        self._fs = fs
        self._path = path

    def sign(self) -> Signed:
        """Return the object's URL and the token, renewed where it is old.

        Raises:
            PermissionError: There is no usable token.
            SourceError: Who gives tokens could not be asked.
        """
        credentials = self._fs.credentials
        base = str(self._fs._location).rstrip("/")
        headers: dict[str, str] = {}
        if credentials.credentials is not None:
            try:
                credentials.maybe_refresh()
                credentials.apply(headers)
            except Exception as error:
                raise typed(error, f"gs://{self._path}") from None
        if self._fs.requester_pays:
            headers["x-goog-user-project"] = str(self._fs.project)
        return Signed(f"{base}/{quote(self._path)}", tuple(headers.items()), _GOOD_SECONDS)

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Say no: a token that is refused stays so until it is old."""
        return False


class GcsStore(HttpStore):
    """Open objects below a prefix of a bucket."""

    def __init__(self, url: str, fs: Any, path: str, options: StreamOptions) -> None:  # noqa: ANN401 - as above
        super().__init__(url, Connections(policy_of(options)))
        self._fs = fs
        self._path = path.strip("/")
        self._listing = FsspecStore(fs, path, url=url)

    def names(self, *, deep: bool = False) -> set[str] | None:
        """Return the names of the objects here."""
        return self._listing.names(deep=deep)

    def signer(self, name: str) -> GcsSigner:
        """Return how an object is asked for."""
        return GcsSigner(self._fs, f"{self._path}/{name}")


def open_store(url: str, storage_options: dict[str, object], options: StreamOptions) -> GcsStore:
    """Return the place that a URL stands for.

    Raises:
        ValueError: It names no bucket.
        ImportError: gcsfs is missing.
    """
    if not url.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{redact(url)!r}: expected gs://bucket/name")
    try:
        from gcsfs import GCSFileSystem
    except ImportError as error:
        missing_library(error, "gs", "gcs")
    try:
        fs = GCSFileSystem(**storage_options)
    except Exception as error:
        raise typed(error, redact(url)) from None
    return GcsStore(url, fs, str(fs._strip_protocol(url)), options)
