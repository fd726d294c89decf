"""Weights whose dtype or order of elements is not the file's: they arrive beside the others, cast on the way.

Floor 4, part of `torch`. A thread takes one group after the other, the one that somebody waits for first: raw bytes
pass through a little memory and torch casts them into place (`_convert`). Tensors wait behind the same gates as those
that the engine fills by itself. Read next: `_gate`, whose `Arriving` this is.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import torch

from ..errors import StreamClosedError, StreamloadError
from ._convert import Conversion
from ._failure import raise_again
from ._fill import fill_converted
from ._gate import close_gate, open_gate, without_gates
from ._stats import add_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._checkpoint import Checkpoint
    from .._engine import LoadStats
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ._layout import Part

_CANCELLED = "the load was cancelled"


@dataclass(frozen=True, slots=True)
class CastPiece:
    """A part of a checkpoint's tensor, and which view of the tensor it is cast into.

    Attributes:
        info: The tensor in the file.
        part: Which part of it.
        shape: Of the view.
        stride: Of the view, in elements.
        offset: Of the view, in elements.
    """

    info: TensorInfo
    part: Part
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def into(self, tensor: torch.Tensor) -> Conversion:
        """Return how it gets into a tensor, whose count of writes stays as it is: those are its user's."""
        return Conversion(self.info, self.part, tensor.data.as_strided(self.shape, self.stride, self.offset))


Cast = tuple[torch.Tensor, "Sequence[CastPiece]"]


class CastLoad:
    """A load in flight of tensors that are cast. Thread-safe.

    Args:
        groups: Tensors with memory, each with what it is made of; what is together is waited for together.
        checkpoint: Where the bytes are; may be closed.
        options: How to read and stage.

    Attributes:
        submitted: When it began, on `time.monotonic()`'s clock.
    """

    def __init__(self, groups: Sequence[Sequence[Cast]], checkpoint: Checkpoint, options: StreamOptions | None) -> None:
        self._tensors = [[tensor for tensor, _ in group] for group in groups]
        self._nbytes = [sum([piece.part.nbytes for _, pieces in group for piece in pieces]) for group in groups]
        self._options = options
        self.submitted = time.monotonic()
        self._began = time.perf_counter()
        self._process = os.getpid()
        self._changed = threading.Condition()  # guards what follows
        self._left = dict.fromkeys(range(len(groups)))  # in the order in which they are taken
        self._done: dict[int, LoadStats] = {}
        self._first_seconds = self._seconds = self._stall_seconds = 0.0
        self._error: BaseException | None = None
        self._cancelled = threading.Event()
        self._over = threading.Event()
        with without_gates():
            jobs = [[piece.into(tensor) for tensor, pieces in group for piece in pieces] for group in groups]
            if options is not None and options.debug:  # as NaN, so that a use before its bytes arrive shows
                for tensor in chain(*self._tensors):
                    tensor.data.reshape(-1).view(torch.uint8).fill_(0xFF)
        for group, tensors in enumerate(self._tensors):
            for tensor in tensors:
                close_gate(tensor, self, group)
        self._thread = threading.Thread(target=self._run, args=(jobs, checkpoint), name="streamload-cast", daemon=True)
        self._at_exit = weakref.finalize(self, _stop, self._cancelled, self._thread, self._process)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether every gate is open, or closed for good."""
        return self._over.is_set() or self._process != os.getpid()

    @property
    def failed(self) -> bool:
        """Whether it ended before all was there: by an error, or cancelled."""
        return self._error is not None

    def order(self, group: int) -> bool:
        """Block until a group's tensors are there for everyone; True. What nobody has begun yet is taken next."""
        if self._process != os.getpid() and not self._over.is_set():
            raise StreamClosedError("the load belongs to the parent of this process; load again in the child")
        with self._changed:
            if group in self._left:
                self._left = {group: None, **self._left}
            began = time.perf_counter()
            self._changed.wait_for(lambda: group in self._done or self._error is not None)
            self._stall_seconds += time.perf_counter() - began
            if group not in self._done and self._error is not None:
                raise_again(self._error)
        return True

    def settle(self, group: int) -> None:
        """Do the same."""
        self.order(group)

    def look_up(self, group: int, tensor: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
        """Return None: rows are not cast by themselves."""
        del group, tensor, ids
        return None

    def wait(self, timeout: float | None) -> None:
        """Block until it is over, and raise what it failed with."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"the load was not complete after {timeout} seconds; it goes on")
        if self._error is not None:
            raise_again(self._error)

    def stats(self) -> LoadStats:
        """Return what it did so far. Bytes are the file's; those of a group count once it is there."""
        with self._changed:
            done = dict(self._done)
            seconds = self._seconds or time.perf_counter() - self._began
            first, stalled = self._first_seconds, self._stall_seconds
        return replace(
            add_up(list(done.values())),
            bytes_total=sum(self._nbytes),
            bytes_resident=sum([self._nbytes[group] for group in done]),
            groups=len(self._nbytes),
            groups_resident=len(done),
            seconds=seconds,
            first_byte_seconds=first,
            first_group_seconds=first,
            stall_seconds=stalled,
        )

    def join(self) -> None:
        """Block until the thread has ended."""
        if self._process == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join()

    def cancel(self) -> None:
        """Stop before the next group; does not block."""
        self._cancelled.set()

    def _run(self, jobs: list[list[Conversion]], checkpoint: Checkpoint) -> None:
        try:
            while (group := self._next()) is not None:
                if self._cancelled.is_set():
                    raise StreamClosedError(_CANCELLED)
                conversions, jobs[group] = jobs[group], []
                self._open(group, fill_converted(conversions, checkpoint, self._options))
        except BaseException as error:  # the thread's top: every waiter raises it
            error.__traceback__ = None
            with self._changed:
                self._error = error
                self._changed.notify_all()
            if not isinstance(error, (StreamloadError, OSError, MemoryError, RuntimeError)):
                raise
        finally:
            self._tensors = []
            self._seconds = time.perf_counter() - self._began
            self._at_exit.detach()
            self._over.set()

    def _next(self) -> int | None:
        with self._changed:
            group = next(iter(self._left), None)
            if group is not None:
                del self._left[group]
            return group

    def _open(self, group: int, stats: LoadStats) -> None:
        with self._changed:
            self._done[group] = stats
            self._first_seconds = self._first_seconds or time.perf_counter() - self._began
            self._changed.notify_all()
        for tensor in self._tensors[group]:
            open_gate(tensor)


def _stop(cancelled: threading.Event, thread: threading.Thread, process: int) -> None:
    """End the thread before the interpreter does."""
    cancelled.set()
    if process == os.getpid() and thread is not threading.current_thread() and thread.ident is not None:
        thread.join()
