"""Record when a process reached what.

Part of `_coldstart`. A `Record` keeps what it is told; a `ColdStartRecorder` also announces it, as events of
`sys.audit`, so that `streamload coldstart` sees what a program records by itself. Where nobody listens an event is a
call that returns.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import StreamClosedError
from ._partition import Phase, partition
from ._process import process_start, unix_time
from ._report import ColdStartReport, LoadReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.registry import Collector

    from .._engine import LoadMoments, LoadStats
    from .._trace import Trace

__all__ = [
    "LOAD_EVENT",
    "MOMENT_EVENT",
    "PHASE_EVENT",
    "RECORDER_EVENT",
    "ColdStartRecorder",
    "Record",
    "WatchedLoad",
]

RECORDER_EVENT: Final = "streamload.coldstart.recorder"  # with the recorder that was made
MOMENT_EVENT: Final = "streamload.coldstart.reached"  # with its name, and when
PHASE_EVENT: Final = "streamload.coldstart.phase"  # with name, detail, and when it began and ended
LOAD_EVENT: Final = "streamload.coldstart.load"  # with the load, the name it is watched by, the module or None


class WatchedLoad(Protocol):
    """What can be watched: a `ModuleStream`, or the `streamload` of a model from `from_pretrained`."""

    def stats(self) -> LoadStats:
        """Return what the load did so far."""

    def moments(self) -> LoadMoments | None:
        """Return when it did what; None where nothing was streamed."""

    def trace(self) -> Trace:
        """Return its reads and copies."""

    def wait(self, timeout: float | None = None) -> None:
        """Block until all is resident."""


@dataclass(slots=True)
class _Watched:
    load: WatchedLoad
    headers: tuple[float, float] | None = None
    report: LoadReport | None = None  # once all is resident: what the load does later, after sleep, is no cold start
    trace: Trace | None = None  # likewise, if it was asked for


class Record:
    """Keep moments, measured phases and loads. Thread-safe."""

    def __init__(self) -> None:
        self._started = process_start()
        self._lock = threading.Lock()  # guards what follows
        self._moments: dict[str, float] = {}
        self._measured: list[Phase] = []  # on the clock, not from the start
        self._loads: dict[str, _Watched] = {}
        self.note_moment("process_start", time.monotonic())

    def note_moment(self, name: str, at: float) -> None:
        """Keep when something was reached; of a name, the first one."""
        with self._lock:
            self._moments.setdefault(name, at)

    def note_phase(self, phase: Phase) -> None:
        """Keep a stretch that was measured, in moments of the clock."""
        with self._lock:
            self._measured.append(phase)

    def note_load(self, load: WatchedLoad, name: str) -> bool:
        """Keep a load, under a name that no other has; False where it is watched already."""
        with self._lock:
            if any(known.load is load for known in self._loads.values()):
                return False
            number, own = 1, name
            while own in self._loads:
                number += 1
                own = f"{name} {number}"
            self._loads[own] = _Watched(load)
            return True

    def seconds_to(self, name: str) -> float | None:
        """Return when a moment was reached, in seconds since the process began; None where it was not yet."""
        with self._lock:
            at = self._moments.get(name)
        return None if at is None else at - self._started

    def report(self, *, traces: bool = False) -> ColdStartReport:
        """Return what is known so far.

        Args:
            traces: Whether to keep what each load did when, once it is resident, for `ColdStartReport.write_trace`. To
                be asked for from the first report on: a load that sleeps has lost it.
        """
        with self._lock:
            moments = {name: at - self._started for name, at in self._moments.items()}
            measured = list(self._measured)
            watched = dict(self._loads)
        loads = [found for name, one in watched.items() if (found := self._look_at(name, one)) is not None]
        measured += [Phase("headers", *one.headers, name) for name, one in watched.items() if one.headers is not None]
        for name, at in _moments_of(loads).items():
            moments.setdefault(name, at)
        reached = dict(sorted(moments.items(), key=lambda moment: moment[1]))
        since = [replace(one, start=one.start - self._started, end=one.end - self._started) for one in measured]
        kept = {
            name: trace for name, one in watched.items() if traces and (trace := self._trace(name, one)) is not None
        }
        phases = partition(reached, since)
        return ColdStartReport(unix_time(self._started), phases, reached, tuple(loads), traces=kept)

    def _trace(self, name: str, watched: _Watched) -> Trace | None:
        """Return what a load that is resident did when; None where nobody knows."""
        if watched.trace is None and watched.report is not None:
            try:
                trace = watched.load.trace()
            except StreamClosedError:  # it sleeps already
                return None
            if trace.began is not None:
                trace = trace.shifted(trace.began - self._started)
            watched.trace = replace(trace, title=f"{name}: {trace.title}")
        return watched.trace

    def _look_at(self, name: str, watched: _Watched) -> LoadReport | None:
        """Return what a load did so far; None where nothing was streamed."""
        if watched.report is not None:
            return watched.report
        stats, moments = watched.load.stats(), watched.load.moments()
        if moments is None:
            return None
        watched.headers = moments.headers
        submitted = moments.submitted - self._started
        resident = stats.groups_resident == stats.groups
        report = LoadReport(
            name,
            submitted,
            submitted + stats.first_byte_seconds if stats.first_byte_seconds else None,
            submitted + stats.seconds if resident else None,
            {layer: at - self._started for layer, at in moments.layers.items()},
            stats,
        )
        if resident:
            watched.report = report
        return report


class ColdStartRecorder(Record):
    """Record what a process's start is spent on; one object for a process, made as early as can be. Thread-safe.

    What was before it was made is the phase `process_start`. Of the loads it watches it takes by itself when headers
    were read (`headers`), when weights were asked for (`submitted`), the first had landed (`first_byte`), each layer
    was resident, and all were (`all_resident`).

    Example:
        >>> phases = streamload.ColdStartRecorder()
        >>> phases.watch(loading)
        >>> logits = model(tokens)
        >>> phases.reached("first_token")
        >>> print(phases.report().table())
    """

    def __init__(self) -> None:
        super().__init__()
        sys.audit(RECORDER_EVENT, self)

    def reached(self, name: str) -> None:
        """Say that a moment is now: what is measured by nobody before it becomes the phase of its name.

        Only the first time of a name counts, so that it may be said at every token.
        """
        if self.seconds_to(name) is not None:
            return
        at = time.monotonic()
        self.note_moment(name, at)
        sys.audit(MOMENT_EVENT, name, at)

    @contextlib.contextmanager
    def phase(self, name: str, detail: str = "") -> Iterator[None]:
        """Measure what runs in this context as a phase.

        Args:
            name: Of the phase: `imports`, `cuda_context`, `warm_up`, `compilation`, or one of one's own.
            detail: Which one of several.
        """
        began = time.monotonic()
        try:
            yield
        finally:
            self.add_phase(name, detail, began, time.monotonic())

    def add_phase(self, name: str, detail: str, began: float, ended: float) -> None:
        """Add a phase that was measured by other means, in moments of `time.monotonic()`."""
        self.note_phase(Phase(name, began, ended, detail))
        sys.audit(PHASE_EVENT, name, detail, began, ended)

    def watch(self, load: WatchedLoad, name: str = "model") -> None:
        """Take the moments and the figures of a load; the report of it ends when all is resident.

        Args:
            load: From `stream_module`, or a model's `streamload`.
            name: What it is called in tables and labels; the second of a name becomes "model 2".
        """
        if self.note_load(load, name):
            sys.audit(LOAD_EVENT, load, name, None)

    def collector(self) -> Collector:
        """Return what a registry of prometheus_client reads at every scrape.

        Raises:
            ModuleNotFoundError: prometheus_client is not installed: `pip install 'streamload[metrics]'`.

        Example:
            >>> prometheus_client.REGISTRY.register(phases.collector())
        """
        from ._metrics import ReportCollector

        return ReportCollector(self.report)


def _moments_of(loads: Sequence[LoadReport]) -> dict[str, float]:
    """Return the moments of all loads together: the first one's beginnings, the last one's end."""
    if not loads:
        return {}
    found = {"submitted": min([load.submitted for load in loads])}
    first_bytes = [load.first_byte for load in loads if load.first_byte is not None]
    if first_bytes:
        found["first_byte"] = min(first_bytes)
    resident = [load.all_resident for load in loads]
    if None not in resident:
        found["all_resident"] = max([at for at in resident if at is not None])
    return found
