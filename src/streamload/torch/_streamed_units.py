"""The streamed units of one module: who holds which, what order they come in, what outsiders are given.

Floor 4, part of `torch`. The rotation below (`_engine`) brings bytes and orders streams; here are the threads and the
passes of a module. Everything lives as long as the module does: its stand-ins hold this, and nothing else has to. Read
next: `_windows` and `_streamed_gate`, which ask; `_oversized`, which makes this.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch

from .._collector import collector_paused
from ..errors import DeviceError, StreamClosedError, StreamloadError
from ._failure import raise_again, without_traceback
from ._memory import current_stream, place
from ._sleep import Asleep, put_to_sleep
from ._streamed_gate import lift_gate, put_behind_gate
from ._submit import Target, submit
from ._windows import Conversion, Pass, StandIn, Window, run_outside_graphs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, Rotation, RotationStats
    from .._format import TensorInfo
    from ._gate import Arriving
    from ._host_copies import HostCopies
    from ._oversized import Division
    from ._units import Unit


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from, for as long as they are streamed.

    Attributes:
        engine: Who copies.
        checkpoint: Where the bytes are; one that nobody else closes.
        device: Where they go.
        known: What each tensor should sum to; None where nobody asked for it.
    """

    engine: CopyEngine
    checkpoint: Checkpoint
    device: torch.device
    known: Mapping[str, int] | None

    @collector_paused()
    def read(self, info: TensorInfo) -> torch.Tensor:
        """Return one tensor in new memory, blocking until its bytes are there."""
        tensor = place([info], self.device).tensors[0]
        groups = [[Target(info, tensor).copy()]]
        memory = [tensor.untyped_storage()]
        with submit(self.engine, self.checkpoint, groups, self.device, memory, self.known) as ticket:
            ticket.wait()
        return tensor


class StreamedUnits:
    """Pass a module's streamed units through their slots. Thread-safe.

    Args:
        rotation: Brings the units, numbered as in `units`.
        whole: What is filled, and what of it is streamed: the rotation numbers units as this does.
        origin: For those who want a tensor outside its unit's window.
        copies: Keeps units in host memory; None where nobody asked for it.
        settle: Blocks until what is not streamed is resident.
    """

    def __init__(
        self,
        rotation: Rotation,
        whole: tuple[torch.nn.Module, Division],
        origin: Origin,
        copies: HostCopies | None,
        settle: Callable[[], object],
    ) -> None:
        self._whole = whole
        self._units: Sequence[Unit] = whole[1].streamed
        self.nbytes = sum([info.nbytes for unit in self._units for _, info in unit.taken])
        self.settle = settle
        self._rotation = rotation
        self._origin = origin
        self._copies = copies
        self._process = os.getpid()
        self._held: dict[int, int] = {}  # by thread: the unit it holds
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # guards what follows
        self._passes: dict[int, list[int]] = {}  # by thread: the units of its pass so far
        self._crossed = False  # whether passes of several threads met
        self._order = list(range(len(self._units)))
        self._stand_ins: list[StandIn] = []
        # Before the interpreter goes, or with the module: no thread may copy into memory that is gone.
        self._end = weakref.finalize(self, _end, rotation, copies, self._process)

    def occupy(self, module: torch.nn.Module, tensors: Sequence[Sequence[torch.Tensor]]) -> None:
        """Put tensors over slots into their seats, behind gates, and stand in for the forwards that use them."""
        run_outside_graphs()
        try:
            for number, (unit, members) in enumerate(zip(self._units, tensors, strict=True)):
                for member, ((seat, _), tensor) in enumerate(zip(unit.taken, members, strict=True)):
                    put_behind_gate(tensor, self, number, member)
                    seat.put(tensor)
                self._stand_ins.append(Window(self, number, unit.module))
            self._stand_ins += [Pass(self, module), Conversion(self, module)]
        except BaseException:
            self.close()
            raise

    def enter(self, unit: int) -> int | None:
        """Let go of the unit that the calling thread holds, unless it is this one, and return it."""
        self._check()
        outer = self._held.get(threading.get_ident())
        if outer is not None and outer != unit:
            self._let_go(outer)
        return outer

    def hold(self, unit: int) -> None:
        """Wait until the current stream, or the host, may use a unit, and keep its slot; blocks."""
        me = threading.get_ident()
        if self._held.get(me) == unit:
            return
        try:
            self._rotation.acquire(unit, stream=self._stream())
        except (StreamloadError, OSError, MemoryError) as error:
            self._fail(error)
        self._held[me] = unit
        if (units := self._passes.get(me)) is not None:
            units.append(unit)

    def leave(self, unit: int, outer: int | None) -> None:
        """Say that the work that uses a unit is queued, and hold again what `enter` let go of."""
        if unit == outer:
            return
        self._let_go(unit)
        if outer is not None:
            self.hold(outer)

    def holds(self, unit: int) -> bool:
        """Whether the calling thread is inside the unit's window."""
        return self._held.get(threading.get_ident()) == unit

    def copy_of(self, unit: int, member: int) -> torch.Tensor:
        """Read one tensor of a unit into memory of its own, blocking."""
        self._check()
        return self._origin.read(self._units[unit].taken[member][1])

    def begin_pass(self) -> bool:
        """Start a pass of the calling thread; False if it is in one already."""
        self._check()
        me = threading.get_ident()
        with self._lock:
            if me in self._passes:
                return False
            self._crossed = self._crossed or bool(self._passes)
            self._passes[me] = []
        try:
            self._rotation.begin_pass()
        except BaseException:
            self.end_pass(complete=False)
            raise
        return True

    def end_pass(self, *, complete: bool) -> None:
        """End the calling thread's pass; if it was alone and took another order than was in force, take that."""
        me = threading.get_ident()
        if (left := self._held.get(me)) is not None:  # an interrupt hit the end of its window
            self._let_go(left)
        with self._lock:
            order = self._passes.pop(me, [])
            alone = not self._crossed
            if not self._passes:
                self._crossed = False
            if not (complete and alone and order) or order == self._order:
                return
            self._order = order
        if self._error is None:
            self._rotation.set_order(order)

    def probes(self) -> Iterator[torch.Tensor]:
        """Yield an empty tensor of each dtype that is streamed."""
        dtypes = {seat.tensor.dtype for unit in self._units for seat, _ in unit.taken}
        return (torch.empty(0, dtype=dtype, device=self._origin.device) for dtype in dtypes)

    def stats(self) -> RotationStats:
        """Return what the rotation did so far."""
        return self._rotation.stats()

    def cancel(self) -> None:
        """Stop streaming; the module raises at use. Does not block."""
        if self._error is None:
            self._error = StreamClosedError("the module's weights were streamed, and its ModuleStream is closed")
        if self._process == os.getpid():
            self._rotation.cancel()
            if self._copies is not None:
                self._copies.cancel()

    @property
    def failed(self) -> bool:
        """Whether a unit could not be brought, or streaming was ended."""
        return self._error is not None

    def close(self) -> None:
        """Stop streaming, wait for copies under way, free the slots; the module raises at use. Idempotent."""
        self.cancel()
        self._stop(_Ended(self._error) if self._error is not None else Asleep())

    def sleep(self) -> tuple[torch.nn.Module, Division]:
        """Stop streaming, free the slots, put the weights to sleep; return what `start_streaming` begins again with."""
        self.cancel()
        self._stop(Asleep())
        return self._whole

    def _stop(self, gate: Arriving) -> None:
        self._end()
        stand_ins, self._stand_ins = self._stand_ins, []
        for stand_in in reversed(stand_ins):
            stand_in.remove()
        if stand_ins:
            tensors = [seat.tensor for unit in self._units for seat, _ in unit.taken]
            for tensor in tensors:
                lift_gate(tensor)
            put_to_sleep(tensors, self._origin.device, gate)

    def _let_go(self, unit: int) -> None:
        held = self._held.pop(threading.get_ident(), None) == unit
        try:
            self._rotation.release(unit, stream=self._stream())
        except RuntimeError:  # not held: `acquire` was cut off before it was
            if held:
                raise

    def _stream(self) -> int | None:
        stream = current_stream(self._origin.device)
        if stream is not None and torch.cuda.is_current_stream_capturing():
            raise DeviceError("a CUDA graph cannot be captured of a module whose weights are streamed")
        return stream

    def _check(self) -> None:
        if self._process != os.getpid():
            raise StreamClosedError("the weights are streamed by the parent of this process; load again in the child")
        if self._error is not None:
            raise_again(self._error)

    def _fail(self, error: BaseException) -> NoReturn:
        with self._lock:
            if self._error is None:
                self._error = without_traceback(error)
        raise error


class _Ended:
    """Stand for a load in the gates of weights that are streamed no longer: whoever uses one gets the error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def order(self, group: int) -> bool:
        del group
        raise_again(self._error)

    def settle(self, group: int) -> None:
        self.order(group)

    def look_up(self, group: int, tensor: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
        del tensor, ids
        self.order(group)
        return None


def _end(rotation: Rotation, copies: HostCopies | None, process: int) -> None:
    if process == os.getpid():  # in a forked child it is the parent's
        if copies is not None:
            copies.cancel()
        rotation.close()
        if copies is not None:
            copies.close()
