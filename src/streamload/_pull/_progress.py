"""How far a pull is, counted by its threads and told to whoever asks.

Part of `_pull`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Say how far a pull is.

    Attributes:
        nbytes: Bytes of all files that are wanted; 0 while the sources are being asked.
        present: Bytes of them that are here.
        fetched: Of `present`, those that this pull fetched itself.
        files: Files wanted.
        files_done: Files that are published and verified.
        seconds: Since the pull began.
        notes: What happened on the way that a person may want to know, oldest first.
        resumable: Whether another pull can go on from what has arrived; False where a server names no version of it.
    """

    nbytes: int
    present: int
    fetched: int
    files: int
    files_done: int
    seconds: float
    notes: tuple[str, ...]
    resumable: bool = True


class Progress:
    """Count what the threads of a pull do. Thread-safe."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._lock = threading.Lock()  # guards all below
        self._wanted: dict[str, int] = {}
        self._present: dict[str, Callable[[], int]] = {}
        self._still: dict[str, int] = {}  # of files that nobody writes now and that are not published yet
        self._done: dict[str, int] = {}
        self._fetched = 0
        self._before: dict[str, int] = {}
        self._notes: list[str] = []
        self._resumable = True

    @property
    def seconds(self) -> float:
        """Since the pull began."""
        return time.monotonic() - self._begin

    def want(self, name: str, nbytes: int) -> None:
        """Add a file, or say that it has another length now."""
        with self._lock:
            self._wanted[name] = nbytes
            self._done.pop(name, None)
            self._still.pop(name, None)

    def watch(self, name: str, present: Callable[[], int]) -> None:
        """Ask `present` from now on how many bytes of a file are there."""
        before = present()
        with self._lock:
            self._still.pop(name, None)
            self._present[name] = present
            self._before[name] = before

    def unwatch(self, name: str) -> None:
        """Ask no more; what came since `watch` counts as fetched."""
        with self._lock:
            present = self._present[name]
        came = present()
        with self._lock:
            del self._present[name]
            self._still[name] = came
            self._fetched += max(0, came - self._before.pop(name))

    def done(self, name: str) -> None:
        """Count a file as published."""
        with self._lock:
            self._still.pop(name, None)
            self._done[name] = self._wanted[name]

    def cannot_resume(self) -> None:
        """Say that another pull will have to begin anew."""
        with self._lock:
            self._resumable = False

    def note(self, text: str) -> None:
        """Keep a line for a person."""
        with self._lock:
            self._notes.append(text)

    def now(self) -> PullProgress:
        """Return how far the pull is."""
        with self._lock:
            watched, before = dict(self._present), dict(self._before)
            fetched, done = self._fetched, sum(self._done.values()) + sum(self._still.values())
            wanted, files, files_done = sum(self._wanted.values()), len(self._wanted), len(self._done)
            notes, resumable = tuple(self._notes), self._resumable
        there = {name: present() for name, present in watched.items()}
        coming = sum([max(0, nbytes - before.get(name, 0)) for name, nbytes in there.items()])
        present = done + sum([nbytes for name, nbytes in there.items()])
        return PullProgress(
            wanted, min(present, wanted), fetched + coming, files, files_done, self.seconds, notes, resumable
        )
