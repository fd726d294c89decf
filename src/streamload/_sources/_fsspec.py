"""Everything that fsspec can read: `memory://`, any other protocol, chains such as `simplecache::s3://…`.

Floor 1, part of `_sources`. A slow way that is right: whole reads, in threads, with lengths and versions checked here,
as fsspec checks neither. Caches of whole files give a local file, which is read as one.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

from .._closing import Closing
from ..errors import ChangedError, ShortReadError, SourceError, StreamClosedError, StreamloadError
from ._file import FileSource
from ._http import HEAD_BYTES
from ._stores import missing_library
from ._urls import join, redact, scheme_of, scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import StreamOptions
    from . import Source

_log = logging.getLogger(__name__)

_VERSIONS = (
    "ETag", "etag", "generation", "VersionId", "version_id", "mtime", "created", "modified", "LastModified",
    "last_modified", "updated",
)  # fmt: skip


_CREDENTIAL_ERRORS = {"GoogleAuthError", "ClientAuthenticationError", "NoCredentialsError", "PartialCredentialsError"}
"""What libraries raise where nobody can sign: google.auth, azure.core, botocore."""


class FsspecSource(Closing):
    """Read one object through fsspec; a context manager.

    Args:
        fs: fsspec's file system.
        path: The object's path in it.
        url: What error messages call it.

    Raises:
        FileNotFoundError, PermissionError, SourceError: It cannot be opened.
    """

    read_concurrency = 8

    def __init__(self, fs: Any, path: str, *, url: str) -> None:  # noqa: ANN401 - fsspec has no types
        self._fs = fs
        self._path = path
        self._url = url
        self._closed = False
        info = self._info()
        size = info.get("size")
        if info.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, "expected an object, got a directory", url)
        if not isinstance(size, int):
            raise SourceError(f"{url}: the file system does not say how long the object is", url=url)
        self._nbytes = size
        self._version = _version_of(info)

    @property
    def url(self) -> str:
        """What error messages call the object."""
        return self._url

    @property
    def nbytes(self) -> int:
        """Length of the object in bytes when it was opened."""
        return self._nbytes

    @property
    def etag(self) -> str:
        """What the file system said of the object's version when it was opened; "" where it says nothing."""
        return " ".join([f"{name}={text}" for name, text in self._version])

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Fill `buffer` from byte `offset` on and return how many bytes came; blocks.

        Raises:
            ValueError: `offset` is negative.
            FileNotFoundError: The object is gone.
            PermissionError: It may no longer be read.
            ChangedError: It is of another version by now.
            SourceError: The read failed.
            StreamClosedError: The source is closed.
        """
        if offset < 0:
            raise ValueError(f"{self._url}: expected an offset from 0 on, got {offset}")
        if self._closed:
            raise StreamClosedError(f"{self._url}: the object is closed")
        view = memoryview(buffer).cast("B")
        end = min(offset + len(view), self._nbytes)
        if end <= offset:
            return 0
        try:
            data = self._fs.cat_file(self._path, start=offset, end=end)  # by keyword: s3fs binds positions otherwise
        except Exception as error:
            raise typed(error, self._url, offset, end - offset) from None
        self.check_unchanged()
        if len(data) != end - offset:
            raise ShortReadError(
                f"{self._url}: expected {end - offset} bytes at offset {offset}, got {len(data)}",
                url=self._url,
                offset=offset,
                nbytes=end - offset,
            )
        view[: end - offset] = data
        return end - offset

    def check_unchanged(self) -> None:
        """Make sure that the object is still the one that was opened, as far as its file system tells.

        Raises:
            ChangedError: It is another one.
            FileNotFoundError, PermissionError, SourceError: It cannot be asked for.
        """
        info = self._info()
        found = info.get("size"), _version_of(info)
        if found != (self._nbytes, self._version):
            raise ChangedError(
                f"{self._url}: the object changed under the load: expected {self._nbytes} bytes and "
                f"{dict(self._version)}, found {found[0]} bytes and {dict(found[1])}",
                url=self._url,
            )

    def reopen(self) -> FsspecSource:
        """Open the same object once more, also where this source is closed; asks nobody, as every read does."""
        again = object.__new__(FsspecSource)
        again._fs, again._path, again._url = self._fs, self._path, self._url
        again._nbytes, again._version, again._closed = self._nbytes, self._version, False
        return again

    def close(self) -> None:
        """Refuse further reads. Harmless when repeated."""
        self._closed = True

    def _info(self) -> Mapping[str, object]:
        try:
            self._fs.invalidate_cache(self._fs._parent(self._path))  # else a listing answers
            info: Mapping[str, object] = self._fs.info(self._path)
        except Exception as error:
            raise typed(error, self._url) from None
        return info

    def __repr__(self) -> str:
        return f"FsspecSource({self._url!r}, nbytes={self._nbytes}{', closed' if self._closed else ''})"


class FsspecStore:
    """Open objects of any file system that fsspec knows.

    Args:
        fs: fsspec's file system.
        path: The directory in it.
        url: The place; shown redacted.
    """

    def __init__(self, fs: Any, path: str, *, url: str) -> None:  # noqa: ANN401 - as above
        self._fs = fs
        self._path = path.rstrip("/")
        self._url = url

    @property
    def url(self) -> str:
        """Name of the place, as error messages give it."""
        return redact(self._url)

    def names(self, *, deep: bool = False) -> set[str] | None:
        """Return the names of the objects here; None where the file system lists nothing."""
        fs = self._fs
        try:
            fs.invalidate_cache(self._path)
            entries = fs.find(self._path, detail=True).values() if deep else fs.ls(self._path, detail=True)
            top = fs._strip_protocol(self._path).rstrip("/")
            return {
                entry["name"][len(top) :].lstrip("/")
                for entry in entries
                if entry.get("type") != "directory" and entry["name"].rstrip("/") != top
            }
        except NotImplementedError:
            return None
        except FileNotFoundError:
            return set()
        except Exception as error:
            raise typed(error, self.url) from None

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> Source:
        """Open an object by its name; one that a cache of whole files holds is a local file."""
        path = f"{self._path}/{name}" if self._path else name
        url = redact(join(self._url, name))
        if getattr(self._fs, "local_file", False):  # as fsspec.open_local does it
            try:
                with self._fs.open(path, "rb") as copy:
                    local = str(copy.name)
            except Exception as error:
                raise typed(error, url) from None
            return FileSource(local, url=url)
        return FsspecSource(self._fs, path, url=url)

    def __repr__(self) -> str:
        return f"FsspecStore({self.url!r})"


def open_store(url: str, storage_options: dict[str, object], options: StreamOptions) -> FsspecStore:
    """Return the place that a URL stands for.

    Raises:
        ValueError: fsspec knows no such protocol.
        ImportError: A library is missing.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        missing_library(error, scheme_of(url) if scheme_of(url) != "::" else url.partition("::")[0], "remote")
    try:
        fs, path = url_to_fs(url, **storage_options)
    except ImportError as error:
        raise ImportError(f"{redact(url)}: {scrub(str(error))}", name=error.name) from None
    except ValueError as error:
        raise ValueError(
            f"{redact(url)!r} is not supported: {scrub(str(error))}; give a local path, or a URL such as file://, "
            "s3://, gs://, az://, https:// or hf://"
        ) from None
    if "blockcache" in url.split("::")[:-1]:
        _log.warning("%s: a cache of blocks is slow; StreamOptions.cache_dir keeps what was loaded", redact(url))
    return FsspecStore(fs, path, url=url)


def _version_of(info: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple([(name, str(info[name])) for name in _VERSIONS if info.get(name) is not None])


def typed(error: Exception, url: str, offset: int | None = None, nbytes: int | None = None) -> Exception:
    """Return what an exception of another library stands for.

    Its text may hold a signed URL or a token, so it is not chained.
    """
    if isinstance(error, StreamloadError):
        return error
    if offset is None and type(error) in (TypeError, ValueError):  # of what was given
        return type(error)(f"{url}: {scrub(str(error))}")
    text = scrub(f"{type(error).__name__}: {error}")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, f"the file system denies access ({text})", url)
    if {kind.__name__ for kind in type(error).__mro__} & _CREDENTIAL_ERRORS:
        return PermissionError(errno.EACCES, f"there are no usable credentials ({text})", url)
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(errno.EISDIR, "expected an object, got a directory", url)
    what = "it could not be asked for" if offset is None else f"reading {nbytes} bytes at offset {offset} failed"
    number = error.errno if isinstance(error, OSError) else None
    return SourceError(f"{url}: {what}: {text}", url=url, offset=offset, nbytes=nbytes, errno=number)
