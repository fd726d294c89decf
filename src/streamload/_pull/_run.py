"""Pull models into a directory: every file whole and verified, or not there.

Part of `_pull`. All files are opened first, so that what is missing or denied is said before a byte is fetched, and
every file is pinned to one version. Then each file has a thread that locks it, fetches what is missing, sums and
publishes it. Where an object changed meanwhile, its model is opened again and only what changed is fetched again.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from .._format import ListedModel, ModelFile, format_of
from .._sources import HEAD_BYTES, redact
from .._units import say_bytes
from ..errors import ChangedError, ChecksumError, FormatError
from ._digest import Digest, sha256_of
from ._fetch import Fetcher
from ._list_file import change_list, listed_in
from ._partial import WorkFiles, check_header, tidy
from ._places import Opening, RemoteFile, open_model, stop_stores
from ._progress import Progress, PullProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .._sources import Store
    from ..options import StreamOptions
    from ._partial import ObjectRecord

_FILES_AT_ONCE: Final = 16
_REPORT_SECONDS: Final = 0.2
_MOST_ROUNDS: Final = 3  # a model that changes three times while it is pulled is being written to
_NOT_PINNED: Final = "the server names no version (ETag), so nothing can be resumed"

_Key = tuple[str, str]  # model, file
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pulled:
    """Say what a pull did.

    Attributes:
        directory: Where the models are.
        models: The models pulled, by name, with all their files.
        nbytes: Bytes of these files.
        fetched: Bytes of them that this pull fetched; the others were here.
        seconds: How long it took.
        notes: What happened on the way that a person may want to know.
    """

    directory: str
    models: Mapping[str, ListedModel]
    nbytes: int
    fetched: int
    seconds: float
    notes: tuple[str, ...]


class PullRun:
    """Carry out one pull; used once.

    Args:
        directory: The target; made where it is missing.
        options: How to read.
        storage_options: For the stores of all models.
        report: Called a few times a second, on the thread that runs.
    """

    def __init__(
        self,
        directory: Path,
        options: StreamOptions,
        storage_options: Mapping[str, object] | None,
        report: Callable[[PullProgress], None] | None,
    ) -> None:
        self._directory = directory
        self._options = options
        self._storage_options = storage_options
        self._report = report
        self._stop = threading.Event()
        self._progress = Progress()
        self._listed: Mapping[str, ListedModel] = {}
        self._sources: Mapping[str, tuple[str, ...]] = {}
        self._finished: dict[_Key, ModelFile] = {}

    def run(self, models: Mapping[str, ListedModel]) -> Pulled:
        """Pull the models; errors are those of `pull`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._listed = listed_in(self._directory)
        self._sources = {name: tuple([redact(url) for url in model.sources]) for name, model in models.items()}
        pulled: dict[str, ListedModel] = {}
        left = dict(models)
        with Fetcher(self._options, self._stop) as fetcher:
            for number in range(_MOST_ROUNDS):
                opened = self._open(left)
                changed = self._fetch(opened, fetcher)
                for name in [name for name in left if name not in changed]:
                    pulled[name] = self._record(name, left.pop(name), opened[name])
                if not left:
                    break
                for name, error in changed.items():
                    if number == _MOST_ROUNDS - 1:
                        raise error
                    self._progress.note(f"{name}: changed while it was pulled, opened again: {error.url}")
        tidy(self._directory)
        self._tell()
        now = self._progress.now()
        done = {name: pulled[name] for name in models}
        return Pulled(str(self._directory), done, now.nbytes, now.fetched, now.seconds, now.notes)

    def _open(self, models: Mapping[str, ListedModel]) -> dict[str, list[RemoteFile]]:
        stores: list[Store] = []

        def open_one(name: str, model: ListedModel) -> list[RemoteFile]:
            head_bytes = self._head_bytes(name)
            return open_model(model, Opening(self._storage_options, self._options, head_bytes, self._stop, stores))

        with ThreadPoolExecutor(_FILES_AT_ONCE, "streamload-pull") as openers:
            opening = {name: openers.submit(open_one, name, model) for name, model in models.items()}
            try:
                self._watch(list(opening.values()))
            except BaseException:
                stop_stores(list(stores))  # or the pool waits for as long as requests are tried again
                raise
            opened = {name: future.result() for name, future in opening.items()}
        for name, files in opened.items():
            for file in files:
                self._progress.want(f"{name}/{file.name}", file.source.nbytes)
            if not all(file.record.pinned for file in files):
                self._progress.cannot_resume()
                self._progress.note(f"{name}: {_NOT_PINNED}")
        self._tell()
        self._check_room(opened)
        return opened

    def _head_bytes(self, model: str) -> Callable[[str], int]:
        """Return how much to bring with a file as it is opened: nearly nothing where bytes of it are here."""

        def head_bytes(name: str) -> int:
            work = WorkFiles(self._directory, f"{model}/{name}")
            here = (str(work.target), work.partial_path)
            return HEAD_BYTES if all(_nbytes_at(path) is None for path in here) else 1

        return head_bytes

    def _check_room(self, opened: Mapping[str, list[RemoteFile]]) -> None:
        """Refuse to begin what cannot end for want of space."""
        needed = 0
        for name, files in opened.items():
            for file in files:
                work = WorkFiles(self._directory, f"{name}/{file.name}")
                if _nbytes_at(str(work.target)) != file.source.nbytes:
                    with suppress(OSError):
                        needed -= os.stat(work.partial_path).st_blocks * 512  # noqa: PTH116 - a str
                    needed += file.source.nbytes
        room = os.statvfs(self._directory)
        free = room.f_bavail * room.f_frsize
        if needed > free:
            text = f"{os.strerror(errno.ENOSPC)}: {say_bytes(needed)} are needed and {say_bytes(free)} free"
            raise OSError(errno.ENOSPC, text, str(self._directory))

    def _fetch(self, opened: Mapping[str, list[RemoteFile]], fetcher: Fetcher) -> dict[str, ChangedError]:
        """Pull all files; return the models of which something changed meanwhile."""
        jobs = [(name, file) for name, files in opened.items() for file in files]
        jobs.sort(key=lambda job: -job[1].source.nbytes)  # the longest first: others end beside it
        changed: dict[str, ChangedError] = {}
        with ThreadPoolExecutor(_FILES_AT_ONCE, "streamload-pull") as workers:
            pulling = {workers.submit(self._pull_file, name, file, fetcher): (name, file) for name, file in jobs}
            try:
                self._watch(list(pulling), lambda job, error: changed.__setitem__(pulling[job][0], error))
            finally:
                for _, file in jobs:
                    file.source.close()
        return changed

    def _watch(
        self, jobs: Sequence[Future[_T]], changed: Callable[[Future[_T], ChangedError], None] | None = None
    ) -> None:
        """Wait for jobs and report meanwhile; the first that fails, and Ctrl-C, end them all.

        Args:
            jobs: What is waited for.
            changed: Given a job that ended in `ChangedError`, and that. None: such an error is like any other.
        """
        waiting = set(jobs)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_REPORT_SECONDS, return_when=FIRST_COMPLETED)
                for job in done:
                    error = job.exception()
                    if isinstance(error, ChangedError) and changed is not None:
                        changed(job, error)
                    elif error is not None:
                        raise error
                self._tell()
        except BaseException:
            self._stop.set()
            for job in jobs:
                job.cancel()
            raise

    def _tell(self) -> None:
        if self._report is not None:
            self._report(self._progress.now())

    def _pull_file(self, model: str, file: RemoteFile, fetcher: Fetcher) -> ModelFile:
        try:
            return self._pull_locked(model, file, fetcher)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            kept = (
                "the bytes that are there stay: the same pull goes on from them" if file.record.pinned else _NOT_PINNED
            )
            text = f"{os.strerror(error.errno)}; {kept}"
            raise OSError(error.errno, text, error.filename or str(self._directory)) from error

    def _pull_locked(self, model: str, file: RemoteFile, fetcher: Fetcher) -> ModelFile:
        name = f"{model}/{file.name}"
        with WorkFiles(self._directory, name) as work:
            work.lock(self._stop, lambda: self._progress.note(f"{name}: waiting for another pull of this file"))
            found = self._published(work, model, file)
            if found is None:
                sha256 = self._fetch_verified(work, name, file, fetcher)
                if work.target.exists():
                    self._mark_incomplete(model)
                mtime_ns = work.publish(replace(file.record, sha256=sha256))
                found = ModelFile(file.source.nbytes, sha256, file.record.etag, mtime_ns)
        self._progress.done(name)
        self._finished[model, file.name] = found
        return found

    def _published(self, work: WorkFiles, model: str, file: RemoteFile) -> ModelFile | None:
        """Return what is at the target, where that is the object, else None; what was written to is read again."""
        record, status = file.record, _status_of(str(work.target))
        if status is None or status.st_size != record.nbytes:
            return None
        recorded = self._recorded(work, model, file)
        wanted = {record.expected} if record.expected else {known.sha256 for known in recorded if known.sha256}
        if not wanted:
            return None
        sha256 = next((known.sha256 for known in recorded if known.mtime_ns == status.st_mtime_ns), None)
        if sha256 not in wanted:
            sha256, _ = sha256_of(str(work.target), self._stop)
        if sha256 in wanted:
            return ModelFile(record.nbytes, sha256, record.etag, status.st_mtime_ns)
        self._progress.note(
            f"{model}/{file.name}: what is here has another SHA-256 than what is pulled; fetching it again"
        )
        return None

    def _recorded(self, work: WorkFiles, model: str, file: RemoteFile) -> list[ModelFile]:
        """Return what was written down of the object as it was published here, what is most to be believed first."""
        record, found = file.record, []
        known = work.known()
        if known is not None and known.sha256 and record.same_object(known) and _nbytes_at(work.partial_path) is None:
            found.append(ModelFile(known.nbytes, known.sha256, known.etag, known.mtime_ns))
        for models in (self._listed, listed_in(self._directory)):  # another pull may have published it just now
            listed = self._listed_file(models, model, file)
            if listed is None or not listed.sha256 or listed.nbytes != record.nbytes:
                continue
            by_etag = bool(record.etag) and listed.etag == record.etag and not record.expected
            if by_etag or listed.sha256 == record.expected:
                found.append(listed)
        return found

    def _listed_file(self, models: Mapping[str, ListedModel], model: str, file: RemoteFile) -> ModelFile | None:
        """Return what a list says of a file, where it says so of a file from the same place."""
        listed = models.get(model)
        if listed is None or listed.files is None:
            return None
        same = not set(listed.sources).isdisjoint(self._sources[model]) or file.record.expected
        return listed.files.get(file.name) if same else None

    def _fetch_verified(self, work: WorkFiles, name: str, file: RemoteFile, fetcher: Fetcher) -> str:
        """Fetch a file and return its SHA-256, which is the expected one where one is known."""
        record = file.record
        if work.begin(record):
            why = "the object is another one than what was begun" if record.pinned else _NOT_PINNED
            self._progress.note(f"{name}: {why}; starting over")
        for again in (True, False):
            found = self._fetch_summed(work, name, file, fetcher)
            if found == record.expected or not record.expected:
                break
            work.discard()  # else the same bytes would be here the next time
            if not again:
                raise _wrong_bytes(record, found)
            self._progress.note(f"{name}: its SHA-256 is not the expected one; fetching it again")
            work.begin(record)
        if format_of(name) == "safetensors":
            try:
                check_header(work.partial_path, record.url)
            except FormatError:
                work.discard()
                raise
        return found

    def _fetch_summed(self, work: WorkFiles, name: str, file: RemoteFile, fetcher: Fetcher) -> str:
        cache = work.cache
        self._progress.watch(name, lambda: cache.covered_bytes)
        try:
            with Digest(work.partial_path, cache.nbytes, self._stop) as digest:
                fetcher.fetch(file.source, work, digest)
                return digest.hexdigest
        except ChangedError:
            work.discard()
            raise
        finally:
            self._progress.unwatch(name)

    def _mark_incomplete(self, model: str) -> None:
        """Say in the list, before a file of a listed model is replaced, that its files are not all of one version."""
        if model in self._listed:
            change_list(
                self._directory,
                model,
                lambda listed: None if listed is None else replace(listed, complete=False),
                self._stop,
            )

    def _record(self, name: str, model: ListedModel, opened: list[RemoteFile]) -> ListedModel:
        """Write a model that is all here into the list, and let go of what was needed for it."""
        files = {file.name: self._finished[name, file.name] for file in opened}
        sources = self._sources[name]

        def merge(before: ListedModel | None) -> ListedModel:
            kept: dict[str, ModelFile] = {}
            if before is not None and before.files is not None and not set(before.sources).isdisjoint(sources):
                kept = {
                    other: listed
                    for other, listed in before.files.items()
                    if _nbytes_at(str(self._directory / name / other)) == listed.nbytes
                }
            return ListedModel(sources, {**kept, **files})

        change_list(self._directory, name, merge, self._stop)
        for file in opened:
            with WorkFiles(self._directory, f"{name}/{file.name}") as work:
                work.lock(self._stop, lambda: None)
                if _nbytes_at(work.partial_path) is None:
                    work.forget()
        return ListedModel(sources, files)


def _wrong_bytes(record: ObjectRecord, found: str) -> ChecksumError:
    return ChecksumError(
        f"{record.url}: SHA-256 is {found}, expected {record.expected}; nothing of it was kept",
        url=record.url,
        expected=int(record.expected, 16),
        actual=int(found, 16),
    )


def _nbytes_at(path: str) -> int | None:
    """Return the length of a regular file, None where there is none."""
    status = _status_of(path)
    return None if status is None else status.st_size


def _status_of(path: str) -> os.stat_result | None:
    """Return the status of a regular file, None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a str
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
