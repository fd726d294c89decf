"""One module's load in flight: what its gates, its watcher thread and its `ModuleStream` share.

Floor 4, part of `torch`. The watcher blocks in native code until the load is over, then opens every gate and ends;
so nothing is left behind even if nobody waits. A load that failed closes every gate for good: the model raises at
any use, and is never half loaded. Read next: `_gate`, `_module_stream`.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

import torch

from ..errors import DeviceError, StreamClosedError, StreamloadError
from ._failure import raise_again
from ._gate import close_gate, open_gate
from ._memory import current_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._engine import Ticket
    from ._block_hooks import BlockHooks
    from ._embedding import EmbeddingRows


_CLOSED = "the load was closed before all was resident; wait() for it before its ModuleStream ends"


class ModuleLoad:
    """Wait for a ticket's groups on behalf of tensors, and open their gates.

    Args:
        ticket: The submitted plan; closed by the watcher when the load is over.
        device: Where the tensors are.
        tensors: Tensors of each group of the ticket, without gates or asleep. Kept alive until the load is over.
        rows: Looks up rows of those that are tables, by the tensor's `id`; closed when the load is over.
    """

    def __init__(
        self,
        ticket: Ticket,
        device: torch.device,
        tensors: Sequence[Sequence[torch.Tensor]],
        rows: EmbeddingRows,
    ) -> None:
        self._device = device
        self._rows = rows
        self._used: dict[int, float] = {}  # groups, in the order of their first use, and when that was
        self._process = os.getpid()
        self._ticket: Ticket | None = ticket  # None: over
        self._groups = [[tensor for tensor in members if tensor.nbytes] for members in tensors]
        self._opened: set[int] = set()  # groups whose gates were opened
        self._empty = [tensor for members in tensors for tensor in members if not tensor.nbytes]
        self._error: BaseException | None = None
        self._closed = False  # by whoever started it
        self._hooks: BlockHooks | None = None
        self._arrived = False  # all of it: whoever brings hooks after this takes them off again
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, args=(ticket,), name="streamload-watch", daemon=True)
        # At the interpreter's end no thread may come back from native code into a Python that is going away.
        self._at_exit = weakref.finalize(self, _stop, ticket, self._process)
        try:
            self._close_gates()
            self._watcher.start()
        except BaseException as error:  # no thread to be had, or a signal's handler raised
            self._end_unwatched(error)
            raise

    @property
    def over(self) -> bool:
        """Whether every gate is open, or closed for good; in a forked child the parent's load is over."""
        return self._over.is_set() or self._process != os.getpid()

    @property
    def failed(self) -> bool:
        """Whether the load failed or was cancelled."""
        return self._error is not None

    @property
    def used(self) -> dict[int, float]:
        """Groups that were used while they arrived, in the order of their first use, and when that began."""
        return dict(self._used)

    def order(self, group: int) -> bool:
        """Let the current stream see a group's bytes, blocking; True when nobody need wait for it again.

        A group that is not read yet becomes the next to be read.
        """
        self._check_process()
        self._used.setdefault(group, time.monotonic())
        ticket = self._ticket
        self._raise_failure()  # after the ticket was read: the watcher sets the error before it lets go of the ticket
        if ticket is None or ticket.resident(group):
            return self._is_resident(group)
        stream = current_stream(self._device)
        if stream is not None and torch.cuda.is_current_stream_capturing():
            raise DeviceError("a CUDA graph was captured while its weights are arriving; wait for the load before")
        ticket.promote(group)
        return ticket.wait_group(group, stream=stream) and self._is_resident(group)

    def settle(self, group: int) -> None:
        """Block until a group's bytes are there for every stream and for the host."""
        if not self.order(group):
            torch.cuda.current_stream(self._device).synchronize()
            self._is_resident(group)

    def go_with(self, hooks: BlockHooks) -> None:
        """Take hooks off as their groups become resident, and all of them when the load has ended well."""
        self._hooks = hooks
        if self._arrived:
            hooks.remove()

    def look_up(self, group: int, tensor: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
        """Return rows of a table that has not arrived, read for this; None where it has, or is to be waited for."""
        self._check_process()
        ticket = self._ticket
        self._raise_failure()
        if ticket is None or ticket.resident(group) or (ids.is_cuda and torch.cuda.is_current_stream_capturing()):
            return None
        try:
            return self._rows.look_up(id(tensor), ids, self._device)
        except StreamClosedError:  # the load has ended meanwhile
            self._raise_failure()
            return None

    def wait(self, timeout: float | None) -> None:
        """Block until the load is over, and raise what it failed with."""
        self._check_process()
        if not self._over.wait(timeout):
            raise TimeoutError(f"the load was not complete after {timeout} seconds; it goes on")
        self.join()
        self._raise_failure()

    def close_early(self) -> None:
        """Say that a load that is cancelled from now on was closed by whoever started it."""
        self._closed = True

    def join(self) -> None:
        """Block until the watcher has ended."""
        if self._process == os.getpid() and threading.current_thread() is not self._watcher:
            self._watcher.join()

    def _watch(self, ticket: Ticket) -> None:
        try:
            ticket.wait()
        except BaseException as error:  # the thread's top: every waiter raises it
            self._error = StreamClosedError(_CLOSED) if self._closed and isinstance(error, StreamClosedError) else error
            self._close_gates()
            if not isinstance(error, (StreamloadError, OSError)):
                raise
            error.__traceback__ = None  # its frames would keep the ticket alive for as long as the module
        else:
            for members in self._groups:
                for tensor in members:
                    open_gate(tensor)
            self._arrived = True
            if self._hooks is not None:
                self._hooks.remove()
        finally:
            self._groups = []
            self._ticket = None
            ticket.close()
            self._rows.close()
            self._at_exit.detach()
            self._over.set()

    def _end_unwatched(self, error: BaseException) -> None:
        """End as a load that failed, which may be tried again; unless the watcher runs, and will do so itself."""
        if self._watcher.ident is not None:
            return
        self._error = StreamClosedError(f"the load could not be watched: {error!r}")
        self._at_exit.detach()
        self._groups = []
        self._ticket = None
        self._over.set()

    def _close_gates(self) -> None:
        for group, members in enumerate(self._groups):
            for tensor in members:
                close_gate(tensor, self, group)
        empty, self._empty = self._empty, []
        for tensor in empty:  # nothing of them is to come; they may have been asleep
            open_gate(tensor)

    def _is_resident(self, group: int) -> bool:
        """Say True, once what waited for that is gone: gates of the whole group, as its other tensors are used next."""
        if group not in self._opened:
            self._opened.add(group)
            groups = self._groups
            members = groups[group] if groups else []  # none once the load is over
            for tensor in members:
                open_gate(tensor)
            if self._error is not None:  # it failed meanwhile: what was opened after its gates were closed
                for tensor in members:
                    close_gate(tensor, self, group)
        if self._hooks is not None:
            self._hooks.group_is_resident(group)
        return True

    def _check_process(self) -> None:
        if self._ticket is not None and self._process != os.getpid():
            raise StreamClosedError("the load belongs to the parent of this process; load again in the child")

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise_again(self._error)


def _stop(ticket: Ticket, process: int) -> None:
    if process == os.getpid():  # in a forked child the load is the parent's
        ticket.abandon()
