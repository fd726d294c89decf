"""Hand tensors that wait for their bytes to the copy engine.

Floor 4, part of `torch`. The one place where tensors become addresses: everything below knows bytes only. Read next:
`_feed` and `_module_stream`, the two users that wait in different ways.
"""

from __future__ import annotations

import itertools
import logging
from array import array
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from .._checkpoint import Checkpoint
from .._checkpoint import open as open_checkpoint
from .._checksums import expected_sums
from .._checksums import known_sums as read_known_sums
from .._collector import collector_paused
from .._engine import shared_engine
from .._plan import Copy, copies_of, make_plan, make_reading_plan
from ..options import StreamOptions
from ._assembly import Assembly
from ._layout import take_apart
from ._memory import current_stream

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import ExitStack

    import torch

    from .._engine import CopyEngine, Ticket
    from .._format import TensorInfo
    from .._plan import Copies, LoadPlan
    from ._layout import Part

_log = logging.getLogger(__name__)

APART_BYTES = 256 << 10
"""Tensors in host memory are read apart from here on: a cold one then lands in its place by itself, where its address
allows that, and a system call for a quarter of a mebibyte costs next to nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checkpoint's tensor, or parts of several, and the contiguous tensor that their bytes go into."""

    info: TensorInfo | Assembly
    tensor: torch.Tensor

    def copy(self) -> Copy:
        """Return the copy that fills the tensor from one in the file."""
        info = cast("TensorInfo", self.info)
        return Copy(info.shard, info.start, info.end, self.tensor.data_ptr())

    def copies(self) -> list[Copy]:
        """Return the copies that fill the tensor, whatever it is made of."""
        if not isinstance(self.info, Assembly):
            return [self.copy()]
        address = self.tensor.data_ptr()
        return [
            copy
            for piece in self.info.pieces
            for copy in copies_into(piece.info, piece.part, piece.stride, address + piece.offset)
        ]


def copies_into(info: TensorInfo, part: Part, stride: Sequence[int], address: int) -> list[Copy]:
    """Return the copies that put a part of a tensor into a view of its shape, whose strides are in bytes."""
    return [
        Copy(info.shard, info.start + at, info.start + at + row, address + to, rows, file_pitch, pitch)
        for at, to, row, rows, file_pitch, pitch in take_apart(part, stride)
    ]


def check_checkpoint(checkpoint: object) -> None:
    """Refuse what is no open checkpoint, a path above all.

    Raises:
        TypeError: As said.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"expected an open Checkpoint, got {checkpoint!r:.80}; open a path with streamload.open(path)")


def check_options(options: object, *, streams: bool = False) -> None:
    """Refuse options of another kind, a dict above all, and those that would not be heeded.

    Args:
        options: Whatever a caller gave.
        streams: Whether the caller passes what exceeds `device_memory` through slots.

    Raises:
        TypeError: They are something else.
        ValueError: They limit the device memory of what is loaded whole.
    """
    if options is None:
        return
    if not isinstance(options, StreamOptions):
        raise TypeError(f"options must be StreamOptions, got {options!r:.80}")
    if options.device_memory is not None and not streams:
        raise ValueError(
            "device_memory is for stream_module, which passes what exceeds it through slots; here all is loaded whole"
        )


def refuse_storage_options(storage_options: Mapping[str, object] | None) -> None:
    """Refuse options of a store beside a checkpoint that is open already: nobody would heed them.

    Raises:
        ValueError: There are some.
    """
    if storage_options:
        raise ValueError("give storage_options to streamload.open: the checkpoint is open already")


def enter_checkpoint(
    opened: ExitStack,
    source: str | os.PathLike[str] | Checkpoint,
    storage_options: Mapping[str, object] | None,
    options: StreamOptions | None,
) -> Checkpoint:
    """Return a checkpoint that is open already, or open one that the stack closes.

    Raises:
        ValueError: `storage_options` came with an open one.
        Exception: As `streamload.open`.
    """
    if isinstance(source, Checkpoint):
        refuse_storage_options(storage_options)
        return source
    return opened.enter_context(open_checkpoint(source, storage_options=storage_options, options=options))


def choose_engine(
    device: torch.device, options: StreamOptions | None, engine: CopyEngine | None, *, streams: bool = False
) -> CopyEngine:
    """Return the engine given, once it fits, or the one that the loads of this process share.

    Raises:
        TypeError, ValueError: As `check_options`.
        ValueError: The engine copies to another device, or options came with it.
        DeviceError: The device cannot be opened.
    """
    check_options(options, streams=streams)
    if engine is None:
        return shared_engine(str(device), StreamOptions() if options is None else options)
    if options is not None:
        raise ValueError("give options or an engine, not both: an engine has the options it was made with")
    if engine.device.name != ("host" if device.type == "cpu" else str(device)):
        raise ValueError(f"the engine given copies to {engine.device.name}, not to {device}")
    return engine


def known_sums(checkpoint: Checkpoint, engine: CopyEngine) -> Mapping[str, int] | None:
    """Return what each tensor of a checkpoint should sum to, for `submit`; None where nobody asked for it.

    Raises:
        FileNotFoundError: `StreamOptions.verify` was asked for, and there is no manifest beside the checkpoint.
        FormatError: The manifest is not valid, or belongs to another checkpoint.
        PermissionError, SourceError, ValueError: It cannot be read.
    """
    return read_known_sums(checkpoint) if engine.options.verify else None


@collector_paused()
def submit(
    engine: CopyEngine,
    checkpoint: Checkpoint,
    groups: Sequence[Copies],
    device: torch.device,
    keep_alive: Sequence[object],
    known: Mapping[str, int] | None,
) -> Ticket:
    """Start filling memory and return at once.

    The first copy waits for what the calling thread's current stream has queued, since the memory may be recycled
    from work that still runs there.

    Args:
        engine: Who copies.
        checkpoint: Where the bytes are. Only the shards that bytes are read from are opened; if all are, the ticket
            numbers its sources as the checkpoint numbers its shards.
        groups: What to copy, in order; the destinations are on `device`.
        device: Where the destinations are.
        keep_alive: Memory that must live until the last copy has drained, whatever happens to the tensors over it.
        known: From `known_sums`: tensors that differ from it fail the load. Those that a group reads only in part
            cannot be compared, which is logged as a warning.

    Raises:
        StreamClosedError: A shard is closed.
        ChangedError: A file is no longer the one whose header was read.
        ValueError: Two destinations overlap.
    """
    apart = APART_BYTES if device.type == "cpu" else None
    plan = make_plan(groups, chunk_bytes=engine.options.chunk_bytes, apart_bytes=apart)
    used = _number_sources(plan)
    names: tuple[str, ...] = ()
    if known is not None:
        wanted = _tensors_read(checkpoint, itertools.chain.from_iterable(map(copies_of, groups)))
        checked = expected_sums(plan, wanted, used, known)
        plan = replace(plan, sums=checked.sums, expected=checked.expected)
        names = checked.names
        if checked.unchecked:
            _log.warning(
                "%d tensors are read in parts, or more than once, and cannot be compared with their checksums, "
                "%r among them",
                len(checked.unchecked),
                checked.unchecked[0],
            )
    sources = [checkpoint.shards[index].source for index in used]
    return engine.submit(plan, sources, after_stream=current_stream(device), keep_alive=keep_alive, key_names=names)


def _number_sources(plan: LoadPlan) -> list[int]:
    """Number the sources of a new plan from 0 on, in their order, and return the shard that each of them is.

    Done to its reads, which are few: there is a copy for each tensor.
    """
    shards = plan.reads[::5]
    used = sorted(set(shards))
    if used != list(range(len(used))):
        number = {shard: index for index, shard in enumerate(used)}
        plan.reads[::5] = array("Q", [number[shard] for shard in shards])
    return used


def compare(engine: CopyEngine, checkpoint: Checkpoint, infos: Sequence[TensorInfo], known: Mapping[str, int]) -> None:
    """Read whole tensors, compare them with what they should sum to, and keep nothing; blocks.

    For tensors that reach their place in several loads, none of which sees all of their bytes.

    Raises:
        ChecksumError: One differs.
        SourceError, ChangedError, StreamClosedError: As `submit` and `Ticket.wait`.
    """
    used = sorted({info.shard for info in infos})
    number = {shard: index for index, shard in enumerate(used)}
    ordered = sorted({info.name: info for info in infos}.values(), key=lambda info: (info.shard, info.start))
    ranges = [(number[info.shard], info.start, info.end) for info in ordered]
    plan = make_reading_plan(ranges, chunk_bytes=engine.options.chunk_bytes)
    checked = expected_sums(plan, ordered, used, known)
    plan = replace(plan, sums=checked.sums, expected=checked.expected)
    sources = [checkpoint.shards[shard].source for shard in used]
    with engine.submit(plan, sources, key_names=checked.names) as ticket:
        ticket.wait()


def _tensors_read(checkpoint: Checkpoint, copies: Iterable[Copy]) -> list[TensorInfo]:
    """Return the tensors that copies read something of."""
    reads: dict[int, list[tuple[int, int]]] = {}
    for copy in copies:
        if copy.start < copy.end:
            last = copy.end + max(copy.rows - 1, 0) * copy.file_pitch
            reads.setdefault(copy.shard, []).append((copy.start, last))
    ends = {}
    for shard, ranges in reads.items():
        ranges.sort()
        # The furthest end so far: a range that begins before a tensor ends and ends behind its start meets it.
        ends[shard] = list(itertools.accumulate((end for _, end in ranges), max))
    found = []
    for info in checkpoint.values():
        ranges = reads.get(info.shard, [])
        before = bisect_left(ranges, (info.end, 0))
        if before and ends[info.shard][before - 1] > info.start:
            found.append(info)
    return found
