"""Put tensors of a checkpoint straight into memory that is there already.

Floor 4, part of `torch`. What rows can express goes from the file into its place (`_layout`); where the dtype or the
order of elements differs, raw bytes pass through a little transient memory and torch casts them into place
(`_convert`). Everything is checked before the first byte is written. Read next: `_destinations`, then `_submit`.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import increment_version

from ._convert import TRANSIENT_BYTES, Conversion, convert
from ._destinations import DeviceFill, sort_by_device
from ._stats import add_up
from ._submit import check_options, choose_engine, compare, enter_checkpoint, known_sums, submit

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, LoadStats, Ticket
    from .._plan import Copies
    from ..options import StreamOptions
    from ._destinations import Destination

_log = logging.getLogger(__name__)


def fill(
    source: str | os.PathLike[str] | Checkpoint,
    destinations: Mapping[str, torch.Tensor] | Iterable[Destination],
    *,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> LoadStats:
    """Put tensors of a checkpoint into tensors that are there, and block until all bytes have arrived.

    Bytes go straight into their place where rows of at least 64 bytes can express it; where the dtype differs, or the
    view's elements lie in another order, they pass through at most 64 MiB of new memory on the device (of all
    devices together) and are cast and put into place by `copy_`. Each device is filled at the same time.

    On return every byte is in place: for the host, and on CUDA for every stream. Filling begins behind what is queued
    on the calling thread's current stream of each device; work on other streams that uses the tensors must be done.
    Tensors that require grad are filled in place, and autograd counts the change as it does `copy_` under
    `no_grad`. A load that fails leaves the contents of all destinations undefined.

    Args:
        source: Path or URL of a file or directory, or an open checkpoint, which stays open.
        destinations: Tensors by name, or what to put where; a name may come several times.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read and stage; not together with `engine`.
        engine: A copy engine of one's own, for the one device that all tensors are on. None: the ones that loads to
            these devices share.

    Returns:
        What was done; `seconds` and the times of the first byte and group count from the call, the other numbers add
        up over the devices.

    Raises:
        KeyError: The checkpoint has no such tensor; the nearest names are offered.
        TypeError: A destination is none, is no tensor with memory of its own (meta, sparse, a wrapper), or one whose
            elements overlap; torch has no such dtype, or cannot cast it; an index is of another kind.
        ValueError: A shape differs from that of the part asked for, two destinations share memory, an index has a
            step, or the engine does not fit. Nothing has been written then.
        IndexError: An index is out of range.
        FileNotFoundError, FormatError: The path is not that of a checkpoint.
        ChecksumError: `options.verify`, and a tensor is not what it was.
        SourceError: Reading failed (`ShortReadError`, `ChangedError` among them).
        DeviceError: The device failed.
        StreamClosedError: The checkpoint is closed, or was closed meanwhile.
        torch.OutOfMemoryError: A CUDA device has no room for the transient memory.

    Example:
        >>> with torch.no_grad():
        ...     fill(path, [Destination("q.weight", qkv.weight[:n]), Destination("k.weight", qkv.weight[n:])])
    """
    began = time.perf_counter()
    check_options(options)
    with ExitStack() as opened:
        checkpoint = enter_checkpoint(opened, source, storage_options, options)
        devices = sort_by_device(checkpoint, destinations)
        for found in devices.values():
            found.refuse_shared_memory()
        engines = {device: choose_engine(device, options, engine) for device in devices}
        return run_fill(checkpoint, devices, engines, began)


def fill_converted(
    conversions: Sequence[Conversion], checkpoint: Checkpoint, options: StreamOptions | None = None
) -> LoadStats:
    """Cast parts of a checkpoint's tensors into their places, and block until all is there; as `fill` does.

    Args:
        conversions: What goes where, on CPU and CUDA devices. No two share memory.
        checkpoint: Open.
        options: How to read and stage.
    """
    began = time.perf_counter()
    devices: dict[torch.device, DeviceFill] = {}
    for conversion in conversions:
        devices.setdefault(conversion.tensor.device, DeviceFill()).conversions.append(conversion)
    engines = {device: choose_engine(device, options, None) for device in devices}
    return run_fill(checkpoint, devices, engines, began)


def run_fill(
    checkpoint: Checkpoint,
    devices: Mapping[torch.device, DeviceFill],
    engines: Mapping[torch.device, CopyEngine],
    began: float,
) -> LoadStats:
    """Submit for every device, then convert window by window on all of them in turn; wait for all.

    Args:
        checkpoint: Open.
        devices: What goes where.
        engines: Who copies to each.
        began: When the call began, by `time.perf_counter`.
    """
    tickets: list[Ticket] = []
    submitted_after = 0.0  # seconds from the call to the first submission, where the tickets' clocks start
    known = next((known_sums(checkpoint, engine) for engine in engines.values()), None)
    if known is not None:
        for device, found in devices.items():
            _compare_converted(engines[device], checkpoint, found.conversions, known)
    with ExitStack() as submitted:

        def start(
            device: torch.device,
            copies: Copies,
            memory: Sequence[object],
            sums: Mapping[str, int] | None = None,
        ) -> Ticket:
            nonlocal submitted_after
            ticket = submit(engines[device], checkpoint, [copies], device, memory, sums)
            submitted_after = submitted_after or time.perf_counter() - began
            tickets.append(ticket)
            submitted.callback(ticket.close)  # cancels it if this is cut off
            return ticket

        for device, found in devices.items():
            if found.whole or found.copies:
                memory: list[object] = []
                start(device, found.group(), [memory], known)
                # Beside the reads: for a tensor each, this takes as long as to plan them.
                memory += [tensor.untyped_storage() for tensor in found.tensors]
                increment_version(found.tensors)
        converting = {device: found.conversions for device, found in devices.items() if found.conversions}
        room = TRANSIENT_BYTES // max(1, len(converting))
        for _ in zip_longest(*[convert(device, each, room, start) for device, each in converting.items()]):
            pass
        for ticket in tickets:
            ticket.wait()
        for device in converting:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        stats = add_up([ticket.stats() for ticket in tickets])
        return replace(
            stats,
            seconds=time.perf_counter() - began,
            first_byte_seconds=stats.first_byte_seconds and stats.first_byte_seconds + submitted_after,
            first_group_seconds=stats.first_group_seconds and stats.first_group_seconds + submitted_after,
        )


def _compare_converted(
    engine: CopyEngine, checkpoint: Checkpoint, conversions: Sequence[Conversion], known: Mapping[str, int]
) -> None:
    """Compare the tensors that pass through transient memory before any of it is used: they arrive window by window."""
    whole = {one.info.name: one.info for one in conversions if one.part.nbytes == one.info.nbytes}
    parts = {one.info.name for one in conversions} - whole.keys()
    if parts:
        _log.warning(
            "%d tensors are converted in parts and cannot be compared with their checksums, %r among them",
            len(parts),
            min(parts),
        )
    if whole:
        compare(engine, checkpoint, list(whole.values()), known)
