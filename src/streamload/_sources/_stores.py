"""Places with names: which library opens a URL, and what every store over HTTP has in common.

Floor 1, part of `_sources`. A scheme's own module knows how its store lists and signs; each is imported when a URL of
its scheme is opened, as is the library that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from ..options import StreamOptions
from ._file import FileSource, local_path
from ._http import HEAD_BYTES, HttpSource
from ._retry import HttpPolicy
from ._urls import LOCAL, join, redact, scheme_of, split

if TYPE_CHECKING:
    import os

    from . import Source
    from ._connections import Connections
    from ._signers import Signer

_MODULES: Final = {
    "http": "_web",
    "https": "_web",
    "s3": "_s3",
    "s3a": "_s3",
    "gs": "_gcs",
    "gcs": "_gcs",
    "az": "_azure",
    "abfs": "_azure",
    "abfss": "_azure",
    "hf": "_hub",
}


class Store(Protocol):
    """Offer objects by name: a directory, a prefix in a bucket, a repository."""

    @property
    def url(self) -> str:
        """Name of the place, as error messages give it."""
        ...

    def names(self, *, deep: bool = False) -> set[str] | None:
        """Return the names of the objects here, relative to the place; None where they cannot be listed.

        Args:
            deep: Also those below: `unet/model.safetensors`.

        Raises:
            FileNotFoundError: There is no such bucket or repository.
            PermissionError: The store denies access.
            SourceError: It could not be asked.
        """
        ...

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> Source:
        """Open an object by its name.

        Args:
            name: Relative to the place.
            head_bytes: How many bytes to bring at once, where opening takes a request.

        Raises:
            FileNotFoundError: There is none of the name.
            PermissionError: The store denies it.
            SourceError: It cannot be read.
        """
        ...


class HttpStore:
    """Open objects through signed ranged GETs; what derives from it says how they are listed and signed.

    Args:
        url: The place; shown redacted.
        connections: What requests go through.
    """

    def __init__(self, url: str, connections: Connections) -> None:
        self._place = url
        self._connections = connections

    @property
    def url(self) -> str:
        """Name of the place, as error messages give it."""
        return redact(self._place)

    def names(self, *, deep: bool = False) -> set[str] | None:
        """Say that the place cannot be listed."""
        return None

    def signer(self, name: str) -> Signer:
        """Return how an object is asked for."""
        raise NotImplementedError

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> Source:
        """Open an object by its name; errors as those of `Store.open`."""
        url = redact(join(self._place, name))
        return HttpSource(self.signer(name), self._connections, url=url, head_bytes=head_bytes)

    def stop(self) -> None:
        """End requests that are under way, from any thread: who opens gets an error at once. It opens nothing more."""
        self._connections.stop()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class LocalStore:
    """Open files of a directory.

    Args:
        path: The directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def url(self) -> str:
        """Path of the directory."""
        return self._path

    def names(self, *, deep: bool = False) -> set[str]:
        """Return the names of the files in the directory."""
        from pathlib import Path  # a tenth of the package's import time

        top = Path(self._path)
        found = top.rglob("*") if deep else top.iterdir()
        return {path.relative_to(top).as_posix() for path in found if path.is_file()}

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> FileSource:
        """Open a file by its name."""
        return FileSource(f"{self._path.rstrip('/') or '/'}/{name}")

    def __repr__(self) -> str:
        return f"LocalStore({self._path!r})"


def open_store(
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
) -> Store:
    """Return the place that a path or URL stands for; asks nobody yet.

    Args:
        url: A directory, `file://`, `s3://`, `gs://`, `az://`, `https://`, `hf://`, or any URL or chain that
            fsspec knows.
        storage_options: Credentials and endpoints, by the names that fsspec's library for the scheme takes.
        options: How long is waited, what is kept.

    Raises:
        ValueError: The text is empty, no library knows its scheme, or an endpoint is no URL.
        TypeError: `storage_options` is no mapping, or an entry of it is not known.
        ImportError: The library for the scheme is not installed; the message names the extra.
    """
    scheme = scheme_of(url)
    if scheme in LOCAL:
        return LocalStore(local_path(url))
    chosen = StreamOptions() if options is None else options
    _check_given(redact(str(url)), storage_options)

    def make() -> Store:
        module = import_module(f".{_MODULES.get(scheme, '_fsspec')}", __package__)
        opened: Store = module.open_store(str(url), dict(storage_options or {}), chosen)
        return opened

    if chosen.cache_dir is None and chosen.memory_dir is None and not chosen.offline:
        return make()
    from ._tiers import TieredStore

    return TieredStore(str(url), make, chosen, storage_options)


def open_source(
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
) -> Source:
    """Open one file or object for reading.

    Args:
        url: A path, taken as it is (`~` is not expanded), a `file://` URL, percent-encoded, or any URL of `open_store`.
        storage_options: As `open_store` takes them.
        options: As `open_store` takes them.

    Raises:
        ValueError, TypeError, ImportError: As `open_store`.
        FileNotFoundError: There is no such file or object.
        PermissionError: It may not be read.
        IsADirectoryError: It is a directory.
        SourceError: It is not a regular file, or could not be opened.
    """
    if scheme_of(url) in LOCAL:
        return FileSource(local_path(url), url=str(url))
    directory, name = split(str(url))
    if not name or is_root(str(url)):
        raise ValueError(f"{redact(str(url))!r}: expected the URL of an object")
    return open_store(directory, storage_options=storage_options, options=options).open(name)


def policy_of(options: StreamOptions, *, verify_tls: bool = True) -> HttpPolicy:
    """Return how long is waited, from what was chosen."""
    return HttpPolicy(
        connect_seconds=min(10.0, options.stall_seconds),
        stall_seconds=options.stall_seconds,
        retry_seconds=options.retry_seconds,
        verify_tls=verify_tls,
    )


def is_root(url: str) -> bool:
    """Whether a URL names a bucket, a container or a host and nothing in it."""
    return scheme_of(url) in _MODULES and split(url)[0].endswith("://")


def _check_given(url: str, storage_options: object) -> None:
    """Refuse what is no mapping, and an endpoint without its scheme, of which libraries say less."""
    if storage_options is None:
        return
    if not isinstance(storage_options, Mapping):
        raise TypeError(f"{url}: storage_options must be a mapping, got {type(storage_options).__name__}")
    client = storage_options.get("client_kwargs")
    for given in (storage_options, client if isinstance(client, Mapping) else {}):
        endpoint = given.get("endpoint_url")
        if isinstance(endpoint, str) and endpoint and not endpoint.lower().startswith(("http://", "https://")):
            shown = redact(endpoint if "://" in endpoint else f"http://{endpoint}").removeprefix("http://")
            raise ValueError(f"{url}: endpoint_url {shown!r}: write http:// or https:// before it")


def refuse_unknown(scheme: str, unknown: Mapping[str, object], known: str) -> None:
    """Refuse entries of `storage_options` that nobody would heed.

    Raises:
        TypeError: There are some; names only, as values may be secret.
    """
    if unknown:
        raise TypeError(f"storage_options for {scheme}:// has no {', '.join(sorted(unknown))}; known are {known}")


def tls_of(verify: object) -> tuple[bool, str]:
    """Return whether certificates are checked and by which authorities, from a `verify` as botocore knows it.

    Raises:
        TypeError: It is neither a boolean nor a path.
        FileNotFoundError: There is no such file.
    """
    if verify is None or isinstance(verify, bool):
        return verify is not False, ""
    if not isinstance(verify, str) or not verify:
        raise TypeError(f"verify must be True, False or the path of a file of certificates, got {verify!r}")
    FileSource(verify).close()
    return True, verify


def missing_library(error: ImportError, scheme: str, extra: str) -> NoReturn:
    """Say which extra brings the library that a scheme needs."""
    raise ImportError(
        f"{scheme}:// needs {error.name}, which is not installed: pip install 'streamload[{extra}]'", name=error.name
    ) from error
