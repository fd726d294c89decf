"""Keep streamed units in page-locked host memory, as far as they were allowed to, so that files are read once.

Floor 4, part of `torch`. A thread makes memory, reads a unit into it, page-locks it and hands it to the rotation, unit
by unit in the order of a pass; then it ends. Weights do not change, so nothing is ever copied back. It knows addresses,
not modules: a module that is dropped is not kept. Read next: `_oversized`.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import threading
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .._closing import Closing
from .._engine import shared_engine
from .._native import NativeError
from .._plan import Copy
from ..errors import StreamloadError
from ._submit import submit
from ._units import padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._engine import Rotation, Ticket
    from .._format import TensorInfo
    from .._native import CudaDevice, HostDevice
    from ._streamed_units import Origin

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors of a unit lie in its slot.

    Attributes:
        address: The first byte; each tensor begins where the one before ends, padded.
        infos: The tensors.
    """

    address: int
    infos: tuple[TensorInfo, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all, padding included."""
        return sum([padded(info.nbytes) for info in self.infos])

    def copies(self, base: int) -> list[Copy]:
        """Return what fills memory laid out like the slot."""
        found = []
        for info in self.infos:
            found.append(Copy(info.shard, info.start, info.end, base))
            base += padded(info.nbytes)
        return found

    def triples(self, base: int) -> array[int]:
        """Return host address, slot's address and length of each piece of a copy of it, joined where they meet."""
        found: list[list[int]] = []
        at = 0
        for info in self.infos:
            if found and found[-1][0] + found[-1][2] == base + at:
                found[-1][2] += info.nbytes
            elif info.nbytes:
                found.append([base + at, self.address + at, info.nbytes])
            at += padded(info.nbytes)
        return array("Q", [number for piece in found for number in piece])


class Pages:
    """Hold whole pages of host memory, page-locked once `pin` was called; unpinned before they go.

    Of huge pages only those are used that lie inside, so that never more becomes resident than `nbytes`.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without huge pages: small ones do
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._device: HostDevice | CudaDevice | None = None

    def pin(self, device: HostDevice | CudaDevice) -> None:
        """Page-lock all of it for a device's copies."""
        device.pin(self.address, self.nbytes)
        self._device = device

    def unpin(self) -> None:
        """Take the page-lock back; harmless when repeated."""
        device, self._device = self._device, None
        if device is not None:
            device.unpin(self.address, self.nbytes)


@dataclass(slots=True)
class _Kept:
    pages: list[Pages] = field(default_factory=list)
    nbytes: int = 0


class HostCopies(Closing):
    """Copy units to page-locked host memory in the background, and hold that memory.

    Args:
        rotation: Gets each copy once it is complete.
        origin: Where the weights come from. Its engine's device page-locks.
        layouts: Units in the order of a pass, numbered as in the rotation.
        most_bytes: Most memory to take; units that do not fit are left to their files.
    """

    def __init__(self, rotation: Rotation, origin: Origin, layouts: Sequence[Layout], most_bytes: int) -> None:
        self._rotation = rotation
        self._origin = origin
        self._layouts = layouts
        self._most_bytes = most_bytes
        self._kept = _Kept()
        self._stopped = False
        self._ticket: Ticket | None = None
        self._thread = threading.Thread(target=self._run, name="streamload-host", daemon=True)

    @property
    def nbytes(self) -> int:
        """Page-locked bytes held now."""
        return self._kept.nbytes

    def start(self) -> None:
        """Begin in the background."""
        self._thread.start()

    def join(self) -> None:
        """Block until the thread has ended; what it did not keep by then it never will."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def cancel(self) -> None:
        """End after the unit under way, without blocking."""
        self._stopped = True
        if (ticket := self._ticket) is not None:
            ticket.cancel()

    def close(self) -> None:
        """End the thread, and free the memory. Only once the rotation is closed: nothing may copy from it any more."""
        self.cancel()
        self.join()
        pages, self._kept = self._kept.pages, _Kept()
        for page in pages:
            page.unpin()

    def _run(self) -> None:
        try:
            for unit, layout in enumerate(self._layouts):
                nbytes = -(-layout.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
                if self._stopped:
                    return
                if nbytes and self._kept.nbytes + nbytes <= self._most_bytes:
                    self._keep(unit, layout, nbytes)
        except (StreamloadError, NativeError, OSError, MemoryError, ValueError) as error:  # the thread's top
            if not self._stopped:
                _log.warning(
                    "kept %d bytes of weights in page-locked host memory and no more, so the rest is read from its "
                    "files in every pass: %s",
                    self._kept.nbytes,
                    error,
                )

    def _keep(self, unit: int, layout: Layout, nbytes: int) -> None:
        pages = Pages(nbytes)
        origin = self._origin
        engine = shared_engine("cpu", origin.engine.options)  # the same threads and staging memory
        with submit(engine, origin.checkpoint, [layout.copies(pages.address)], _CPU, [pages], origin.known) as ticket:
            self._ticket = ticket
            if self._stopped:
                return
            ticket.wait()
        self._ticket = None
        pages.pin(origin.engine.device)
        self._kept.pages.append(pages)
        self._kept.nbytes += nbytes
        self._rotation.keep_on_host(unit, layout.triples(pages.address), pages)
