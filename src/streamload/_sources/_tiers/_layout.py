"""Where a tier keeps what: the only place that knows the names of its files.

Part of `_tiers`. Everything is private to the user, and every small file appears whole, by rename:

    DIR/objects/<aa>/<key>     whole objects, never written again
    DIR/partial/<key>          objects on their way, each with its `.journal` (csrc/io/cache_file.hpp)
    DIR/entries/<key>.json     what the key stands for, and when its whole object was written last; touched at each use,
                               so its time is that of the last one
    DIR/urls/<digest>.json     the key that a URL had when it was last asked for
    DIR/lock                   held by who makes room

The key is a digest of URL, version and length: an object that changed is another object.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL_SUFFIX = ".journal"
_FOLDERS = ("objects", "partial", "entries", "urls")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """Say what a key stands for.

    Attributes:
        url: Name of the object, without query and user info.
        nbytes: Its length.
        etag: Its version, as the store tells it.
        created: When it was first asked for, in seconds since 1970.
    """

    url: str
    nbytes: int
    etag: str
    created: float

    @property
    def key(self) -> str:
        """Digest of URL, version and length, in hexadecimal."""
        return _digest(f"{self.url}\n{self.etag}\n{self.nbytes}")


class Layout:
    """Name the files of one tier, read and write the small ones."""

    def __init__(self, directory: str) -> None:
        self.root = Path(directory).absolute()

    def make(self) -> None:
        """Make the folders.

        Raises:
            PermissionError: One of them belongs to another user, or others may write to it.
            OSError: They cannot be made.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_root(self.root)
        for name in _FOLDERS:
            folder = self.root / name
            folder.mkdir(mode=0o700, exist_ok=True)
            check_own(folder)

    def make_object_folder(self, key: str) -> None:
        """Make the folder that the whole object will be in; errors are those of `make`."""
        folder = self.object_path(key).parent
        folder.mkdir(mode=0o700, exist_ok=True)
        check_own(folder)

    def check(self) -> None:
        """Make sure that only this user can have put here what is here; what is not there is no fault.

        Raises:
            PermissionError: A folder belongs to another user, or others may write to it.
            OSError: One cannot be looked at.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _check_root(self.root)
            for name in _FOLDERS:
                with contextlib.suppress(FileNotFoundError):
                    check_own(self.root / name)

    def check_object(self, key: str) -> None:
        """Likewise of the folder of a whole object."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            check_own(self.object_path(key).parent)

    def check_partial(self, key: str) -> None:
        """Likewise of the files of an object on its way."""
        path = self.partial_path(key)
        for file in (path, path.with_name(path.name + JOURNAL_SUFFIX)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                check_own(file, directory=False)

    @property
    def made(self) -> bool:
        """Whether the directory has the folders of a tier."""
        return all((self.root / name).is_dir() for name in _FOLDERS)

    def object_path(self, key: str) -> Path:
        """Return where the whole object is, or will be."""
        return self.root / "objects" / key[:2] / key

    def partial_path(self, key: str) -> Path:
        """Return where the object is while parts of it are missing."""
        return self.root / "partial" / key

    def entry_path(self, key: str) -> Path:
        """Return where the facts of a key are."""
        return self.root / "entries" / f"{key}.json"

    def url_path(self, url: str) -> Path:
        """Return where the key of a URL is."""
        return self.root / "urls" / f"{_digest(url)}.json"

    @property
    def lock_path(self) -> Path:
        """Where the lock of who makes room is."""
        return self.root / "lock"

    def object_keys(self) -> Iterator[str]:
        """Yield the keys of whole objects."""
        for folder in _listed(self.root / "objects"):
            yield from (path.name for path in _listed(folder))

    def partial_keys(self) -> set[str]:
        """Return the keys of objects on their way, or of whatever was left of one."""
        return {path.name.removesuffix(JOURNAL_SUFFIX) for path in _listed(self.root / "partial")}

    def small_files(self) -> Iterator[Path]:
        """Yield every file of facts and keys, half-written ones included."""
        for name in ("entries", "urls"):
            yield from _listed(self.root / name)

    def remember(self, facts: Facts) -> None:
        """Write down what a key stands for, that its URL has it, and that it is used now.

        Raises:
            OSError: It cannot be written.
        """
        if self.facts_of(facts.key) is None:
            _write_json(self.entry_path(facts.key), {"format": _FORMAT, **asdict(facts)})
        os.utime(self.entry_path(facts.key))
        if self.key_of(facts.url) != facts.key:
            _write_json(self.url_path(facts.url), {"format": _FORMAT, "url": facts.url, "key": facts.key})

    def facts_of(self, key: str) -> Facts | None:
        """Return what a key stands for, as far as that can be read."""
        found = _read_json(self.entry_path(key))
        try:
            facts = Facts(
                str(found["url"]), int(str(found["nbytes"])), str(found["etag"]), float(str(found["created"]))
            )
        except (KeyError, ValueError):
            return None
        return facts if facts.key == key else None

    def mtime_of(self, key: str) -> int | None:
        """Return when a whole object's file was written last, as `record_mtime` was told it; None if it was not."""
        found = _read_json(self.entry_path(key)).get("mtime_ns")
        return found if isinstance(found, int) else None

    def record_mtime(self, facts: Facts, mtime_ns: int | None) -> None:
        """Write down when a whole object's file was written last, or that nobody knows yet.

        Raises:
            OSError: It cannot be written.
        """
        known = self.facts_of(facts.key) or facts
        written = {} if mtime_ns is None else {"mtime_ns": mtime_ns}
        _write_json(self.entry_path(facts.key), {"format": _FORMAT, **asdict(known), **written})

    def key_of(self, url: str) -> str | None:
        """Return the key that a URL had when it was last asked for."""
        found = _read_json(self.url_path(url))
        return str(found["key"]) if found.get("url") == url and "key" in found else None

    def urls(self) -> Iterator[str]:
        """Yield every URL that has a key."""
        for path in _listed(self.root / "urls"):
            url = _read_json(path).get("url")
            if isinstance(url, str) and self.url_path(url) == path:
                yield url

    def used_at(self, key: str) -> float:
        """Return when a key was used last, in seconds since 1970; 0 where nobody knows."""
        with contextlib.suppress(OSError):
            return self.entry_path(key).stat().st_mtime
        return 0.0


def check_own(path: Path, status: os.stat_result | None = None, *, directory: bool = True) -> None:
    """Make sure that a directory, or a regular file, is this user's and that nobody else can write to it.

    Args:
        path: Its path.
        status: What fstat(2) said of it. None: it is looked at here, and a symbolic link is neither.
        directory: Whether it must be a directory.

    Raises:
        PermissionError: It is not.
        OSError: It cannot be looked at.
    """
    found = path.lstat() if status is None else status
    right_kind = stat.S_ISDIR(found.st_mode) if directory else stat.S_ISREG(found.st_mode)
    if not right_kind or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        _refuse(path, found, "directory" if directory else "regular file")


def _check_root(root: Path) -> None:
    """Make sure that nobody else can put folders into the root or take them away.

    It may also be the system's, and one that all may write to where the sticky bit keeps what each has there: /dev/shm.
    """
    found = root.stat()
    safe = not found.st_mode & 0o022 or found.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), 0) or not safe:
        _refuse(root, found, "directory")


def _refuse(path: Path, status: os.stat_result, kind: str) -> NoReturn:
    mode = f"{stat.filemode(status.st_mode)} ({stat.S_IMODE(status.st_mode):04o}) of user {status.st_uid}"
    what = f"it is {mode}; it must be a {kind} of this user's that nobody else can write to"
    raise PermissionError(errno.EACCES, what, str(path))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):  # whatever a crash left
        return {}
    return found if isinstance(found, dict) and found.get("format") == _FORMAT else {}


def _write_json(path: Path, content: dict[str, object]) -> None:
    """Write a small file so that it appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(content, out)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
