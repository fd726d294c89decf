"""How a module's weights travel, so that they can do so again: from which checkpoint, by which engine, to where.

Floor 4, part of `torch`. Keeps headers and names only: neither memory nor threads, nor an open file. Read next:
`_module_load` for one load in flight, `_sleep` for what happens between two.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from .._engine import shared_engine
from ..errors import StreamClosedError
from ._assembly import Assembly
from ._embedding import EmbeddingRows
from ._gate import without_gates
from ._memory import place, poison
from ._module_load import ModuleLoad
from ._sleep import Bed, give_memory, lacks_memory, put_to_sleep
from ._submit import Target, known_sums, submit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, Ticket


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are waited for together.

    Attributes:
        layer: The checkpoint's layer that they belong to.
        beds: One for each tensor.
    """

    layer: str
    beds: list[Bed]


class Delivery:
    """Bring tensors of one checkpoint to one device, as often as needed.

    Args:
        checkpoint: Where the bytes are; may be closed afterwards.
        device: Where they go.
        engine: Who copies.
        shared: Whether the engine is the one that loads share: then another one may do it next time.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, engine: CopyEngine, *, shared: bool) -> None:
        self.checkpoint = checkpoint.detached()
        self.device = device
        self._options = engine.options
        self._engine = None if shared else weakref.ref(engine)

    def submit(self, engine: CopyEngine, targets: Sequence[Sequence[Target]], blocks: Sequence[object]) -> Ticket:
        """Start to fill groups of targets.

        Args:
            engine: Who copies.
            targets: By group.
            blocks: What owns their memory.

        Raises:
            ChangedError, FileNotFoundError, PermissionError, DeviceError, ValueError: As `submit`.
        """
        if engine.options.debug:
            poison(blocks)
        with without_gates():
            copies = [[copy for target in group for copy in target.copies()] for group in targets]
            memory = [*blocks, *(target.tensor.untyped_storage() for target in chain(*targets))]
        known = known_sums(self.checkpoint, engine)
        return submit(engine, self.checkpoint, copies, self.device, memory, known)

    def watch(
        self, ticket: Ticket, tensors: Sequence[Sequence[torch.Tensor]], beds: Sequence[Sequence[Bed]]
    ) -> ModuleLoad:
        """Close the gates of tensors that a ticket fills, and see its load through.

        Raises:
            StreamClosedError: No thread could be started; the ticket is closed.
        """
        pairs = zip(chain(*tensors), chain(*beds), strict=True)
        tables = {id(tensor): bed.info for tensor, bed in pairs if bed.table and not isinstance(bed.info, Assembly)}
        if self._options.verify:  # rows by themselves have no checksum
            tables = {}
        return ModuleLoad(ticket, self.device, tensors, EmbeddingRows(self.checkpoint, tables))

    def again(self, sleepers: Sequence[Sequence[tuple[torch.Tensor, Bed]]]) -> tuple[Ticket, ModuleLoad]:
        """Give sleeping tensors new memory and start to fill it.

        Args:
            sleepers: Tensor and bed, by group.

        Raises:
            StreamClosedError: The engine that was given is closed.
            RuntimeError: One of them does not sleep.
            ChangedError, FileNotFoundError, PermissionError, DeviceError: As `submit`; all sleep on.
            torch.OutOfMemoryError, MemoryError: As `place`; all sleep on.
        """
        engine = self.engine()
        if not all(lacks_memory(tensor) for tensor, _ in chain(*sleepers)):
            raise RuntimeError("the module was filled by another stream while it slept; use that one")
        infos = [bed.info for group in sleepers for _, bed in group]
        placement = place(infos, self.device)
        fresh = iter(placement.tensors)
        targets = [[Target(bed.info, next(fresh)) for _, bed in group] for group in sleepers]
        tensors = [[tensor for tensor, _ in group] for group in sleepers]
        ticket = self.submit(engine, targets, placement.blocks)
        try:
            give_memory(list(chain(*tensors)), placement.tensors)
            with without_gates():
                for tensor, bed in chain(*sleepers):
                    bed.remember(tensor)
            load = self.watch(ticket, tensors, [[bed for _, bed in group] for group in sleepers])
        except BaseException:
            ticket.close()
            put_to_sleep(list(chain(*tensors)), self.device)  # all of them sleep on
            raise
        return ticket, load

    def engine(self) -> CopyEngine:
        """Return the engine that copies.

        Raises:
            StreamClosedError: The one that was given is closed.
            DeviceError: The device cannot be opened.
        """
        if self._engine is None:
            return shared_engine(str(self.device), self._options)
        engine = self._engine()
        if engine is None or engine.closed:
            raise StreamClosedError("the copy engine that the module was loaded with is closed; load the module again")
        return engine
