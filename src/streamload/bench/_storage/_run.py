"""Run the storage benchmark: every way to read, by turns, the cold ones apart from the warm ones.

Part of `bench._storage`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ... import _native
from ..._machine import machine_facts, memory_headroom_bytes
from ..._sources import is_remote, local_path, redact
from .._memory import give_back_memory
from .._result import cache_state
from .._rounds import Conditions, run_rounds
from ._bucket import REQUEST_BYTES, bucket_ways, opened_bucket
from ._drive import GRAIN_BYTES, cold_ways, files_below, open_drive, probe, warm_ways
from ._result import StorageBench

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._figures import Figure, Way
    from .._progress import BenchProgress
    from .._settings import StorageSettings
    from ._drive import DriveCourse

__all__ = ["run"]

_BUDGET_SECONDS: Final = 75.0  # of reading at the rate of a first look: three minutes, with what is slower than that
_DRIVE_RUNS, _BUCKET_RUNS = 20, 15  # ways to read that take as long as that, about
_MEMORY_PART: Final = 4  # of the memory that may be taken, one for the target
_BLOCK_BYTES: Final = 4 << 20


def run(settings: StorageSettings, progress: BenchProgress) -> StorageBench:
    """Do what `run_storage_bench` says."""
    if settings.where is not None and is_remote(os.fspath(settings.where)):
        return _run_bucket(os.fspath(settings.where), settings, progress)
    with ExitStack() as stack:
        files: tuple[Path, ...]
        if settings.where is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamload-storage-")))
            files = (_write(scratch / "random", _room(settings.nbytes), progress),)
        else:
            files = files_below(Path(local_path(os.fspath(settings.where))))
        most = _affordable(probe(files), _DRIVE_RUNS, settings, GRAIN_BYTES)
        return _race(open_drive(files, most), settings, progress)


def _run_bucket(url: str, settings: StorageSettings, progress: BenchProgress) -> StorageBench:
    def affordable(rate: float) -> int:
        return _affordable(rate, _BUCKET_RUNS, settings, REQUEST_BYTES)

    with opened_bucket(url, settings.storage_options, affordable) as course:
        figures = _measured(list(bucket_ways(course)), settings.repeat, lambda: None, "measuring", progress)
        nbytes = course.nbytes
    return _result(settings, figures, where=redact(url), store="bucket", nbytes=nbytes, files=1)


def _race(course: DriveCourse, settings: StorageSettings, progress: BenchProgress) -> StorageBench:
    cached: dict[str, list[float | None]] = {"cold": []} if settings.cold else {"cold": [], "warm": []}

    def prepare(when: str) -> None:
        if when == "cold":
            course.drop_from_cache()
        give_back_memory()
        cached[when].append(course.cached())

    figures: list[Figure] = []
    for when in cached:
        ways = list(cold_ways(course) if when == "cold" else warm_ways(course))
        if when == "warm":
            _fetch(course)
        figures += _measured(ways, settings.repeat, partial(prepare, when), f"{when}, measuring", progress)
    result = _result(
        settings,
        figures,
        where="" if settings.where is None else os.fspath(settings.where),
        store="drive",
        nbytes=course.nbytes,
        files=len(course.files),
    )
    return replace(
        result,
        cache={when: cache_state(asked_cold=when == "cold", cached=parts) for when, parts in cached.items()},
        cached={when: tuple(parts) for when, parts in cached.items()},
    )


def _measured(
    ways: Sequence[Way], repeat: int, prepare: Callable[[], object], name: str, progress: BenchProgress
) -> list[Figure]:
    with progress.stage(name, (repeat + 1) * len(ways), "run") as advance:
        conditions = Conditions(prepare=prepare, progress=advance)
        scores = run_rounds([way.contestant for way in ways], repeat, conditions)
    return [way.figure(score) for way, score in zip(ways, scores, strict=True)]


def _result(
    settings: StorageSettings, figures: Sequence[Figure], *, where: str, store: str, nbytes: int, files: int
) -> StorageBench:
    return StorageBench(
        where=where,
        store=store,
        nbytes=nbytes,
        files=files,
        cache={},
        cached={},
        rounds=settings.repeat,
        figures=tuple(figures),
        command=settings.command,
        machine=machine_facts(native_build=_native.build_type),
    )


def _room(nbytes: int) -> int:
    headroom = memory_headroom_bytes()
    return nbytes if headroom is None else min(nbytes, headroom // _MEMORY_PART)


def _affordable(rate: float, runs: int, settings: StorageSettings, grain: int) -> int:
    """Return how many bytes one run may read, so that all runs at that rate stay within the budget."""
    wanted = min(_room(settings.nbytes), int(rate * _BUDGET_SECONDS / (runs * (settings.repeat + 1))))
    return max(wanted - wanted % grain, grain)


def _fetch(course: DriveCourse) -> None:
    """Bring into the page cache what is read."""
    for file, length in zip(course.files, course.lengths, strict=True):
        with file.open("rb", buffering=0) as opened:
            for _ in range(0, length, _BLOCK_BYTES):
                opened.read(_BLOCK_BYTES)


def _write(path: Path, nbytes: int, progress: BenchProgress) -> Path:
    """Write a file of random bytes, which no file system can make smaller."""
    nbytes -= nbytes % _BLOCK_BYTES
    with progress.stage("file", nbytes, "B") as advance, path.open("wb") as file:
        for _ in range(0, nbytes, _BLOCK_BYTES):
            advance(file.write(os.urandom(_BLOCK_BYTES)))
        file.flush()
        os.fsync(file.fileno())
    return path
