"""Fill memory later than asked to, so that many tensors are read at once; until then nobody may look at it.

Floor 4, part of `torch`. For code that copies a checkpoint's tensors one by one into parameters that are there: each
copy is written down, and all are done together when somebody needs one of them, or at the end. What is plain begins to
be read before that. Read next: `_fill`, which does the work.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import increment_version

from .._closing import Closing
from ._convert import Conversion, check_cast
from ._destinations import DeviceFill
from ._dtypes import torch_dtype
from ._fill import run_fill
from ._layout import blocks_of, suits
from ._stats import add_up
from ._submit import choose_engine, copies_into, known_sums, submit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._checkpoint import Checkpoint
    from .._engine import LoadStats, Ticket
    from .._format import TensorInfo
    from .._plan import Copy
    from ..options import StreamOptions
    from ._layout import Part

__all__ = ["DeferredFill"]

START_BYTES = 128 << 20
"""Written down before what is plain of it begins to be read: 8 ms of memory bandwidth, far more than a ticket costs."""


class DeferredFill(Closing):
    """Write copies down and do them together. Thread-safe; only the thread that called `begin` may put off.

    Args:
        checkpoint: Where the bytes are; open.
        options: How to read and stage.
    """

    def __init__(self, checkpoint: Checkpoint, options: StreamOptions | None) -> None:
        self._checkpoint, self._options = checkpoint, options
        self._lock = threading.RLock()  # guards all below
        self._owner: int | None = None
        self._waiting: dict[torch.device, DeviceFill] = {}
        self._nbytes = 0  # of what waits and is plain
        self._taken: dict[int, list[tuple[int, int]]] = {}  # storage → first and last byte of what is not there yet
        self._tickets: list[Ticket] = []
        self._finished: list[LoadStats] = []
        self._known: Mapping[str, int] | None = None
        self._asked = False  # for `_known`

    def begin(self) -> None:
        """From now on, put off what the calling thread wants copied. Until then, and elsewhere, it is done at once."""
        with self._lock:
            self._owner = threading.get_ident()

    def put(self, info: TensorInfo, part: Part, dtype: torch.dtype, tensor: torch.Tensor) -> bool:
        """Copy a part of a tensor of the checkpoint into memory, now or later.

        Args:
            info: The tensor.
            part: What of it.
            dtype: What its elements are taken for.
            tensor: Where it goes; of the part's shape.

        Returns:
            False where this cannot be done here: another device, another kind of memory. Nothing is written down.

        Raises:
            SourceError, DeviceError: Reading what was begun earlier has failed.
        """
        if (
            not (tensor.is_cpu or tensor.is_cuda)
            or tensor.layout is not torch.strided
            or tensor.is_neg()
            or tensor.is_conj()
        ):
            return False
        itemsize = tensor.element_size()
        stride = tuple([step * itemsize for step in tensor.stride()])
        with torch._C.DisableTorchFunction():  # whoever watches for looks at memory need not see this one
            address, storage = tensor.data_ptr(), tensor.untyped_storage()._cdata
        blocks = blocks_of(address, tensor.shape, stride, itemsize)
        if blocks is None or (not address and tensor.numel()):
            return False
        plain = tensor.dtype == dtype and suits(part, stride)
        if not plain and dtype != torch_dtype(info):
            return False
        if not blocks:
            return True
        if not plain:
            check_cast(info, tensor)
        reach = address + sum([(extent - 1) * step for extent, step in zip(tensor.shape, stride, strict=True)])
        with self._lock:
            self._take(storage, address, reach + itemsize)
            found = self._waiting.setdefault(tensor.device, DeviceFill())
            if plain:
                found.tensors.append(tensor)
                found.copies += copies_into(info, part, stride, address)
                self._nbytes += part.nbytes
            else:
                found.conversions.append(Conversion(info, part, tensor))
            if threading.get_ident() != self._owner:
                self.settle()
            elif self._nbytes >= START_BYTES:
                self._start()
        return True

    def settle_for(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do all that is put off if any of it goes to the memory of one of these tensors; blocks then.

        Raises:
            SourceError, DeviceError, ChecksumError, StreamClosedError: As `fill`.
        """
        if not self._taken:
            return
        for tensor in tensors:
            if tensor.is_meta or not torch._C._has_storage(tensor):
                continue
            with torch._C.DisableTorchFunction():
                storage = tensor.untyped_storage()._cdata
            if storage in self._taken:
                self.settle()
                return

    def settle(self) -> None:
        """Do all that is put off, and block until its bytes are there; errors as those of `settle_for`."""
        with self._lock:
            began = time.perf_counter()
            waiting, self._waiting = self._waiting, {}
            tickets, self._tickets = self._tickets, []
            self._nbytes, self._taken = 0, {}
            try:
                if waiting:
                    engines = {device: choose_engine(device, self._options, None) for device in waiting}
                    self._finished.append(run_fill(self._checkpoint, waiting, engines, began))
                for ticket in tickets:
                    ticket.wait()
            finally:
                for ticket in tickets:
                    ticket.close()
                    self._finished.append(ticket.stats())

    def stats(self) -> LoadStats:
        """Return what was done so far; of what is still being read, nothing."""
        with self._lock:
            return add_up(self._finished)

    def close(self) -> None:
        """Give up what has not been done, and put nothing off any more. Harmless when repeated."""
        with self._lock:
            self._owner = None
            self._waiting, self._nbytes, self._taken = {}, 0, {}
            tickets, self._tickets = self._tickets, []
            for ticket in tickets:
                ticket.close()

    def _take(self, storage: int, start: int, end: int) -> None:
        """Note that memory waits for bytes. What would be written twice is done in the order that was asked for."""
        taken = self._taken.get(storage, [])
        at = bisect_left(taken, (start, end))
        if (at and taken[at - 1][1] > start) or (at < len(taken) and taken[at][0] < end):
            self.settle()
            taken, at = [], 0
        taken.insert(at, (start, end))
        self._taken[storage] = taken

    def _start(self) -> None:
        """Begin to read what is plain."""
        self._nbytes = 0
        for device, found in self._waiting.items():
            copies: list[Copy] = found.copies
            tensors = found.tensors
            found.copies, found.tensors = [], []
            if not copies:
                continue
            engine = choose_engine(device, self._options, None)
            if not self._asked:
                self._known, self._asked = known_sums(self._checkpoint, engine), True
            increment_version(tensors)
            memory = [tensor.untyped_storage() for tensor in tensors]
            ticket = submit(engine, self._checkpoint, [copies], device, memory, self._known)
            self._tickets.append(ticket)
