"""One file on its way into a directory: its lock, the bytes that are there, what is known of the object, publishing.

Part of `_pull`. Everything stands below `.streamload-pull` in the target directory, so that a model's own directory
holds whole files only. Per file: `.lock` (flock), `.partial` and its journal (`_native.CacheFile`), and `.object`, the
JSON that names the object and, once its bytes were verified, their SHA-256. Written before the bytes, so that whoever
comes next, after `kill -9` at any point, knows what they are of.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import _native
from .._closing import Closing
from .._format import header_nbytes, parse_header
from .._sources import FileSource
from .._whole_file import replace_file, sync_directory
from ..errors import SourceError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

WORK_DIRECTORY: Final = ".streamload-pull"
"""Where files stand, below the target directory, until they are whole."""

_LOCK_SECONDS: Final = 0.2  # between two looks at a lock that somebody else holds
_PRIVATE: Final = 0o700


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """Name the object that a file's bytes are of.

    Attributes:
        url: Its URL, without what must not be shown.
        nbytes: Its length.
        etag: What its store calls this version; empty where it has no word for it.
        expected: SHA-256 that its bytes must have; empty where it is not known.
        sha256: SHA-256 of its bytes, once they were all there; empty before.
        mtime_ns: When its file was last written, once its bytes were all there.
    """

    url: str
    nbytes: int
    etag: str
    expected: str = ""
    sha256: str = ""
    mtime_ns: int | None = None

    @property
    def pinned(self) -> bool:
        """Whether bytes fetched at two times are known to be of one version."""
        return bool(self.etag or self.expected)

    def same_object(self, other: ObjectRecord) -> bool:
        """Whether bytes of the other one are bytes of this one."""
        if self.nbytes != other.nbytes:
            return False
        if self.expected:
            return self.expected in (other.expected, other.sha256)
        return bool(self.etag) and (self.url, self.etag) == (other.url, other.etag)

    @property
    def identity(self) -> bytes:
        """32 bytes that tell the object from every other; of no two calls where nothing pins it."""
        if not self.pinned:
            return os.urandom(32)
        named = ["sha256", self.expected] if self.expected else ["etag", self.url, self.etag]
        return sha256(json.dumps([*named, self.nbytes]).encode()).digest()


class WorkFiles(Closing):
    """Hold the lock of one file of a pull, and what stands below the work directory for it; a context manager.

    Args:
        directory: The target directory of the pull.
        name: The file's path below it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.target = directory / name
        self._directory = directory
        self._root = directory / WORK_DIRECTORY
        self._stem = str(self._root / name)
        self._lock: int | None = None
        self._cache: _native.CacheFile | None = None

    @property
    def partial_path(self) -> str:
        """Path of the bytes that are there."""
        return f"{self._stem}.partial"

    @property
    def _object_path(self) -> Path:
        return Path(f"{self._stem}.object")

    def lock(self, stop: Event, busy: Callable[[], None]) -> None:
        """Wait until nobody else works on the file, and let nobody until `close`.

        Args:
            stop: Ends the wait.
            busy: Called once if somebody else does.

        Raises:
            StreamClosedError: `stop` was set.
            OSError: The lock's file cannot be made; or a part of its path, or of the target's, is a symbolic link.
        """
        told = False
        self._refuse_links()
        while True:
            descriptor = self._open_lock()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    self._refuse_links()  # of which some may have been waited for
                    self._lock, descriptor = descriptor, -1
                    return
                continue  # its owner was done and took it away
            except BlockingIOError:
                if not told:
                    busy()
                told = True
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if stop.wait(_LOCK_SECONDS):
                raise StreamClosedError(f"{self.target}: the pull was stopped")

    def _open_lock(self) -> int:
        while True:
            path = Path(f"{self._stem}.lock")
            with suppress(FileNotFoundError):  # another pull removed the empty directory meanwhile
                self._root.mkdir(mode=_PRIVATE, exist_ok=True)  # and so all below it is
                path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _refuse_links(self) -> None:
        """Make sure that nothing on the way from the target directory down leads out of it."""
        for last in (self.target, Path(f"{self._stem}.partial")):
            path = self._directory
            for part in last.relative_to(path).parts:
                path = path / part
                with suppress(FileNotFoundError, NotADirectoryError):
                    if stat.S_ISLNK(path.lstat().st_mode):
                        text = "a symbolic link, which a pull does not follow; remove it, or pull to where it leads"
                        raise OSError(errno.ELOOP, text, str(path))

    def _is_current(self, descriptor: int) -> bool:
        mine = os.fstat(descriptor)
        try:
            there = Path(f"{self._stem}.lock").stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def known(self) -> ObjectRecord | None:
        """Return what is known of the object whose bytes are here, or were published from here; None for nothing."""
        try:
            fields = json.loads(self._object_path.read_bytes())
            return ObjectRecord(**fields) if isinstance(fields["nbytes"], int) else None
        except (OSError, ValueError, TypeError, KeyError):
            return None  # half a file of a machine that lost power says no more than none

    def begin(self, wanted: ObjectRecord) -> bool:
        """Open the partial file for an object; whether bytes of another one had to go.

        Raises:
            OSError: The files cannot be made or written.
        """
        known = self.known()
        resumes = known is not None and wanted.same_object(known)
        changed = known is not None and not resumes and os.path.exists(self.partial_path)  # noqa: PTH110 - a str
        if not resumes:
            self.discard()
        self._remember(replace(wanted, sha256="", mtime_ns=None))
        self._cache = _open_cache(self.partial_path, wanted)
        return changed

    def _remember(self, record: ObjectRecord) -> None:
        replace_file(str(self._object_path), json.dumps(asdict(record)).encode(), temporary=self.temporary)

    @property
    def temporary(self) -> str:
        """Path that the lock's owner may write to before a rename."""
        return f"{self._stem}.new"

    @property
    def cache(self) -> _native.CacheFile:
        """The partial file that `begin` opened."""
        if self._cache is None:
            raise StreamClosedError(f"{self.target}: no partial file is open")
        return self._cache

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges that are not there yet."""
        return self.cache.missing(0, self.cache.nbytes)

    def put(self, offset: int, data: memoryview) -> None:
        """Write bytes that arrived.

        Raises:
            OSError: They cannot be written: a full disk, say. What was written before stays.
        """
        if not self.cache.put(offset, data):
            raise self.why_broken()

    def why_broken(self) -> OSError:
        """Return the error that keeps the partial file from being written."""
        code = self.cache.broken or errno.EIO
        return OSError(code, os.strerror(code), self.partial_path)

    def publish(self, record: ObjectRecord) -> int:
        """Rename the whole partial file to the target, after its bytes and before its name are on the disk.

        Returns:
            When it was last written, in nanoseconds since 1970.

        Raises:
            OSError: It cannot be.
        """
        self._remember(replace(record, mtime_ns=os.stat(self.partial_path).st_mtime_ns))  # noqa: PTH116 - a str
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._refuse_links()
        os.chmod(self.partial_path, 0o666 & ~_umask())  # noqa: PTH101 - a str; private until here
        try:
            self.cache.publish(os.fsencode(self.target), replace=True)
        except _native.NativeError as error:
            text = f"{self.target}: {error}"
            raise SourceError(text, url=str(self.target), errno=error.system_code or None) from error
        self._cache = None
        sync_directory(str(self.target.parent))
        return self.target.stat().st_mtime_ns

    def discard(self) -> None:
        """Let go of all bytes that are not published."""
        self._cache = None
        for path in (self.partial_path, f"{self.partial_path}.journal", self._object_path, self.temporary):
            Path(path).unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what is left of a file that is published and recorded."""
        self.discard()
        Path(f"{self._stem}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the file. Harmless when repeated."""
        self._cache = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def tidy(directory: Path) -> None:
    """Remove the work directory where nothing is left in it."""
    root = directory / WORK_DIRECTORY
    for path, _, _ in os.walk(root, topdown=False) if not root.is_symlink() else ():
        with suppress(OSError):
            Path(path).rmdir()


def is_unfinished(directory: Path) -> bool:
    """Whether a pull into a directory, or of the model whose directory it is, was begun and has not ended."""
    top = directory.absolute()
    places = (top / WORK_DIRECTORY, top.parent / WORK_DIRECTORY / top.name)
    return any(path.suffix == ".object" for place in places for path in place.rglob("*"))


def check_header(path: str, url: str) -> None:
    """Make sure that a safetensors file is one: a page that says "not found" has a length and a checksum, too.

    Raises:
        FormatError: Its header is not valid, or its length is not what the header says.
    """
    with FileSource(path, url=url) as source:
        first = bytearray(min(8, source.nbytes))
        source.read_into(0, memoryview(first))
        head = bytearray(header_nbytes(bytes(first), url=url, file_nbytes=source.nbytes))
        source.read_into(0, memoryview(head))
        parse_header(memoryview(head), url=url, file_nbytes=source.nbytes)


def _open_cache(path: str, wanted: ObjectRecord) -> _native.CacheFile:
    try:
        return _native.CacheFile(os.fsencode(path), wanted.nbytes, wanted.identity)
    except _native.NativeError as error:
        raise OSError(error.system_code or errno.EIO, str(error), path) from error


def _umask() -> int:
    """Return the process's umask; asking umask(2) would change it for every thread meanwhile."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.partition(":")[2], 8)
    return 0o077
