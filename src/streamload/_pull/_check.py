"""Hold a directory to its list of models: every file there, of its length, with its SHA-256.

Part of `_pull`. Files are read in parallel; hashlib lets go of the GIL.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._machine import usable_cpus
from ._digest import sha256_of
from ._list_file import LIST_NAME, read_models

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._format import ListedModel, ModelFile


@dataclass(frozen=True, slots=True)
class ModelFault:
    """Name one file that is not as the list of models says.

    Attributes:
        model: The model's name.
        file: The file's path below the model's directory; empty where the model itself is wrong.
        text: What is wrong, got against expected.
    """

    model: str
    file: str
    text: str


@dataclass(frozen=True, slots=True)
class ModelsVerdict:
    """Say what was found of the models of a directory.

    Attributes:
        directory: The directory.
        manifest: Path of the list it was held to.
        models: How many models were compared.
        files: How many files.
        nbytes: Bytes read.
        seconds: How long that took.
        faults: What is wrong, in the order of the list.
    """

    directory: str
    manifest: str
    models: int
    files: int
    nbytes: int
    seconds: float
    faults: tuple[ModelFault, ...]

    @property
    def right(self) -> bool:
        """Whether every file is the one that was pulled."""
        return not self.faults


def verify_models(
    directory: str | os.PathLike[str],
    *,
    manifest: str | os.PathLike[str] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> ModelsVerdict:
    """Read every file of the models of a directory once and compare it with the list.

    Args:
        directory: Where the models are.
        manifest: The list. None: `models.json` in the directory.
        report: Called now and then, on any thread, with the bytes read and the bytes to read.

    Raises:
        FileNotFoundError: There is no list.
        FormatError: The list is not valid.
        OSError: The list or a file cannot be read.
    """
    begin = time.monotonic()
    path = Path(directory) / LIST_NAME if manifest is None else Path(manifest)
    models = read_models(path).models
    wanted = [(name, file, known) for name, model in models.items() for file, known in (model.files or {}).items()]
    total = sum([known.nbytes or 0 for _, _, known in wanted])
    counted = _Counted(total, report)
    stop = threading.Event()
    with ThreadPoolExecutor(max(2, usable_cpus()), "streamload-verify") as readers:
        found = [
            readers.submit(_compare, Path(directory) / name / file, known, stop, counted)
            for name, file, known in wanted
        ]
        try:
            texts = [job.result() for job in found]
        except BaseException:
            stop.set()
            for job in found:
                job.cancel()
            raise
    faults = [ModelFault(name, "", text) for name, model in models.items() if (text := _about_model(model))]
    faults += [ModelFault(name, file, text) for (name, file, _), text in zip(wanted, texts, strict=True) if text]
    seconds = time.monotonic() - begin
    return ModelsVerdict(
        os.fspath(directory), str(path), len(models), len(wanted), counted.nbytes, seconds, tuple(faults)
    )


class _Counted:
    """Count bytes that several threads read."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._lock = threading.Lock()  # guards the count
        self._total = total
        self._report = report
        self.nbytes = 0

    def add(self, nbytes: int) -> None:
        with self._lock:
            self.nbytes += nbytes
            now = self.nbytes
        if self._report is not None:
            self._report(min(now, self._total), self._total)


def _about_model(model: ListedModel) -> str:
    if not model.complete:
        return "a pull that replaces some of its files was not finished; run it again"
    return "" if model.files is not None else "the list does not say which files it has"


def _compare(path: Path, known: ModelFile, stop: threading.Event, counted: _Counted) -> str:
    """Return what is wrong with a file, nothing where nothing is."""
    try:
        nbytes = path.stat().st_size
        if known.nbytes is not None and nbytes != known.nbytes:
            return f"{nbytes} bytes long, expected {known.nbytes}"
        if known.sha256 is None:
            return "the list does not say what it sums to"
        found, _ = sha256_of(str(path), stop, counted.add)
    except FileNotFoundError:
        return "not there"
    except IsADirectoryError:
        return "a directory, expected a file"
    return "" if found == known.sha256 else f"SHA-256 {found}, expected {known.sha256}"
