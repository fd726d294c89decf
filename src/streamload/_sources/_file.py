"""Read a local file at any offset, through one descriptor opened once.

Floor 1, part of `_sources`. Says what can be wrong with a path before any byte is read, and remembers which
file was opened (`FileStamp`), so that a later stage can tell when it was replaced.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from .._closing import Closing
from ..errors import ChangedError, SourceError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLIP = re.compile(r"(s3a?|gs|gcs|az|abfss?|hf|https?):/([^/].*)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|file:", re.IGNORECASE)
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Identify the state of a file, to notice that it was replaced or written to.

    A rewrite in place that keeps the length and puts the time back is not noticed. The time of the last change of
    metadata would tell, but it moves whenever somebody links or renames a cached file.

    Attributes:
        device: Number of the file system's device.
        inode: Number of the file on it.
        nbytes: Length in bytes.
        mtime_ns: Time of the last write, in nanoseconds since 1970.
    """

    device: int
    inode: int
    nbytes: int
    mtime_ns: int


class FileSource(Closing):
    """Read one local file, opened once; a context manager.

    Any number of threads may read at once; a close beside them takes effect when the last has read. The descriptor
    is closed with the object at the latest.

    Args:
        path: The file's path, relative ones taken from the working directory.
        url: What error messages call the file. None: the path.

    Raises:
        ValueError: The path is empty or holds NUL.
        FileNotFoundError: There is no such file.
        PermissionError: This process may not read it.
        IsADirectoryError: It is a directory.
        SourceError: It is not a regular file, or the system could not open it.
    """

    def __init__(self, path: str | os.PathLike[str], *, url: str | None = None) -> None:
        given = _check_path(os.fspath(path))
        self._url = given if url is None else url
        # Joined, not normalised: "link/.." is not where it seems. The engine opens the file again, and by then the
        # working directory may be another.
        self._path = given if given.startswith("/") else os.path.join(os.getcwd(), given)  # noqa: PTH109, PTH118 - as said
        # O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing to a regular file.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            descriptor = os.open(self._path, flags)
        except OSError as error:
            _raise_open_error(error, given, self._url)
        try:
            self._stamp = _stamp_regular(os.fstat(descriptor), given, self._url)
        except BaseException:
            os.close(descriptor)
            raise
        self._file = io.FileIO(descriptor)
        self._lock = threading.Lock()  # guards the two below
        self._readers = 0
        self._closed = False

    @property
    def url(self) -> str:
        """What error messages call the file."""
        return self._url

    @property
    def path(self) -> str:
        """The local path that was opened, from the root on."""
        return self._path

    @property
    def nbytes(self) -> int:
        """Length of the file in bytes when it was opened."""
        return self._stamp.nbytes

    @property
    def stamp(self) -> FileStamp:
        """State of the file when it was opened."""
        return self._stamp

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def reopen(self) -> FileSource:
        """Open the same file once more, also where this source is closed; the result is the caller's to close.

        Raises:
            ChangedError: The file there now is another one, or was written to.
            FileNotFoundError, PermissionError, SourceError: As when it was opened first.
        """
        again = FileSource(self._path, url=self._url)
        try:
            self._compare(again.stamp)
        except BaseException:
            again.close()
            raise
        return again

    def check_unchanged(self) -> None:
        """Make sure that nobody has written to the open file since its stamp was taken.

        Raises:
            ChangedError: Somebody has.
            StreamClosedError: The source is closed.
        """
        with self._reading() as descriptor:
            self._compare(_stamp_regular(os.fstat(descriptor), self._path, self._url))

    def _compare(self, now: FileStamp) -> None:
        if now != self._stamp:
            raise ChangedError(
                f"{self._url}: the file changed under the load: expected {self._stamp}, found {now}", url=self._url
            )

    def fileno(self) -> int:
        """Return the open descriptor; it stays ours.

        Raises:
            StreamClosedError: The source is closed.
        """
        if self._closed:
            raise StreamClosedError(f"{self._url}: the file is closed")
        return self._file.fileno()

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Fill `buffer` from byte `offset` on and return how many bytes came; blocks.

        Fewer than asked for means that the file ends there. A signal's handler runs, then the read goes on.

        Raises:
            ValueError: `offset` is negative.
            SourceError: The system reported an error.
            StreamClosedError: The source is closed.
        """
        if offset < 0:
            raise ValueError(f"{self._url}: expected an offset from 0 on, got {offset}")
        with self._reading() as descriptor:
            return self._read(descriptor, offset, memoryview(buffer).cast("B"))

    def _read(self, descriptor: int, offset: int, view: memoryview) -> int:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise SourceError(
                    f"{self._url}: reading {len(view)} bytes at offset {offset} failed after {done}: {error.strerror}",
                    url=self._url,
                    offset=offset,
                    nbytes=len(view),
                    errno=error.errno,
                ) from error
            if count == 0:
                break
            done += count
        return done

    @contextmanager
    def _reading(self) -> Iterator[int]:
        """Keep the descriptor open: its number could be another file's by the time it is read."""
        with self._lock:
            descriptor = self.fileno()
            self._readers += 1
        try:
            yield descriptor
        finally:
            with self._lock:
                self._readers -= 1
                if self._closed and not self._readers:
                    self._file.close()

    def close(self) -> None:
        """Close the file, once no thread reads it. Harmless when repeated."""
        with self._lock:
            self._closed = True
            if not self._readers:
                self._file.close()

    def __repr__(self) -> str:
        return f"FileSource({self._url!r}, nbytes={self.nbytes}{', closed' if self.closed else ''})"


def local_path(url: str | os.PathLike[str]) -> str:
    """Return the local path that a path or `file://` URL stands for.

    Raises:
        ValueError: The text is empty, holds NUL, is a URL of another scheme, or a `file:` URL of another host.
        FileNotFoundError: There is no such file, and the text looks like a URL that lacks a slash.
        TypeError: It is neither text nor a path object.
    """
    text = os.fspath(url)
    if not isinstance(text, str):
        raise TypeError(f"expected a path or URL as text, got {text!r}")
    match = _SCHEME.match(text) if isinstance(url, str) else None
    if match is None:
        if isinstance(url, str) and (slip := _SLIP.match(text)) and not os.path.lexists(text):
            what = f"no such file or directory; did you mean {slip[1]}://{slip[2]}?"
            raise FileNotFoundError(errno.ENOENT, what, text)
        return _check_path(text)
    if text[:5].lower() != "file:":
        raise ValueError(f"{text!r}: {match[1]}:// is not supported; give a local path or a file:// URL")
    return _check_path(_file_url_path(text))


def _file_url_path(url: str) -> str:
    """Decode `file:///path`, `file://localhost/path` and `file:/path` (RFC 8089)."""
    from urllib.parse import unquote_to_bytes  # 4 ms to import, and few callers need it

    rest = url[5:]
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise ValueError(f"{url!r}: a file on host {host!r} cannot be read; did you mean file:///{host}/... ?")
        rest = slash + rest
    if not rest.startswith("/"):
        raise ValueError(f"{url!r}: a file URL needs an absolute path, as in file:///models/model.safetensors")
    if "?" in rest or "#" in rest:
        raise ValueError(f"{url!r}: write '?' as %3F and '#' as %23 in a file URL")
    return os.fsdecode(unquote_to_bytes(rest))


def _check_path(path: str) -> str:
    if not path:
        raise ValueError("the path is empty; expected a safetensors file or a directory of them")
    if "\0" in path:
        raise ValueError(f"the path {path!r} holds a NUL character")
    return path


def _stamp_regular(status: os.stat_result, path: str, url: str) -> FileStamp:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, "expected a file, got a directory", path)
    if kind != stat.S_IFREG:
        raise SourceError(f"{url}: expected a regular file, got {_KINDS.get(kind, 'something else')}", url=url)
    return FileStamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _raise_open_error(error: OSError, path: str, url: str) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise FileNotFoundError(errno.ENOENT, _explain_missing(path), path) from error
    if isinstance(error, PermissionError):
        raise PermissionError(error.errno, _explain_denied(path), path) from error
    hint = "; raise the limit of open files (ulimit -n)" if error.errno == errno.EMFILE else ""
    raise SourceError(f"{url}: cannot be opened: {error.strerror}{hint}", url=url, errno=error.errno) from error


def _explain_missing(path: str) -> str:
    if os.path.islink(path):  # noqa: PTH114 - a str path may hold what Path would normalise away
        return f"symbolic link to a missing file ({os.readlink(path)})"  # noqa: PTH115 - as above
    if path.startswith("~"):
        return "no such file ('~' is not expanded, use os.path.expanduser)"
    return "no such file"


def _explain_denied(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 - a str path may hold what Path would normalise away
    except OSError:
        return "permission denied: a directory on the way may not be searched by this user"
    return (
        f"permission denied: the file belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}, "
        f"this process is user {os.geteuid()}. safetensors 0.8 and newer writes files with mode 0600; "
        "let the owner run chmod a+r on it"
    )
