"""Put tensors of a checkpoint straight into memory that is there already.

Floor 4, part of `torch`. What rows can express goes from the file into its place (`_layout`); where the dtype or the
order of elements differs, raw bytes pass through a little transient memory and torch casts them into place
(`_convert`). Everything is checked before the first byte is written. Read next: `_submit`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch.autograd.graph import increment_version

from .._collector import collector_paused
from .._plan import Copy, find_overlap
from ..errors import StreamloadError
from ._convert import TRANSIENT_BYTES, Conversion, check_cast, convert
from ._dtypes import torch_dtype, torch_shape
from ._layout import blocks_of, suits, take_part
from ._stats import add_up
from ._submit import check_options, choose_engine, compare, copies_into, enter_checkpoint, known_sums, submit

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, LoadStats, Ticket
    from .._format import TensorInfo
    from .._plan import Block
    from ..options import StreamOptions
    from ._layout import Part

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """Name a tensor of a checkpoint, or a part of it, and the memory it is to be put into.

    Attributes:
        name: The tensor's name in the checkpoint.
        tensor: Where it goes, on the CPU or a CUDA device: a whole parameter, or any strided view of one, such as a
            slice of a fused parameter, one expert of a stacked one, or a transposed view.
        index: Which part of the checkpoint's tensor: ints and slices of step 1, at most one for each dimension. `()`
            takes all of it.

    Example:
        >>> Destination("q_proj.weight", qkv.weight[:4096])
        >>> Destination("o_proj.weight", o_proj.weight, (slice(None), slice(0, 2048)))
    """

    name: str
    tensor: torch.Tensor
    index: tuple[int | slice, ...] = ()


@dataclass(slots=True)
class DeviceFill:
    """What goes to one device."""

    copies: list[Copy] = field(default_factory=list)
    conversions: list[Conversion] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)  # that the copies write to
    blocks: list[Block] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # whose block it is


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
        devices = _sort_by_device(checkpoint, destinations)
        for found in devices.values():
            _refuse_shared_memory(found)
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
            copies: Sequence[Copy],
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
            if found.copies:
                increment_version(found.tensors)
                memory = [tensor.untyped_storage() for tensor in found.tensors]
                start(device, found.copies, memory, known)
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


@collector_paused()
def _sort_by_device(
    checkpoint: Checkpoint, destinations: Mapping[str, torch.Tensor] | Iterable[Destination]
) -> dict[torch.device, DeviceFill]:
    """Check every destination, and work out how its bytes get there."""
    devices: dict[torch.device, DeviceFill] = {}
    dtypes: dict[str, torch.dtype] = {}
    known_casts: set[tuple[str, torch.dtype, torch.device]] = set()
    for name, tensor, index in _each(destinations):
        info = checkpoint[name]
        dtype = dtypes.get(info.dtype)
        if dtype is None:
            dtype = dtypes[info.dtype] = torch_dtype(info)
        shape = torch_shape(info)
        address, device = _find_memory(name, tensor), tensor.device
        found = devices.get(device)
        if found is None:
            found = devices[device] = DeviceFill()
        plain = tensor.dtype == dtype and not (tensor.is_conj() or tensor.is_neg())
        if plain and index == () and tensor.shape == shape and tensor.is_contiguous():  # nearly always
            if info.end > info.start:
                found.blocks.append((address, info.end - info.start, 1, 0))
                found.names.append(name)
                found.tensors.append(tensor)
                found.copies.append(Copy(info.shard, info.start, info.end, address))
            continue
        part = _find_part(info, shape, dtype.itemsize, index, tensor)
        stride = tuple([step * tensor.element_size() for step in tensor.stride()])
        blocks = blocks_of(address, tensor.shape, stride, tensor.element_size())
        if blocks is None:
            raise TypeError(
                f"tensor {info.name!r}: elements of the destination cannot be shown not to share memory; fill what it "
                "is a view of"
            )
        found.blocks += blocks
        found.names += [name] * len(blocks)
        if plain and suits(part, stride):
            found.tensors.append(tensor)
            found.copies += copies_into(info, part, stride, address)
        elif blocks:
            if (info.dtype, tensor.dtype, device) not in known_casts:
                check_cast(info, tensor)
                known_casts.add((info.dtype, tensor.dtype, device))
            found.conversions.append(Conversion(info, part, tensor))
    return devices


def _each(
    destinations: Mapping[str, torch.Tensor] | Iterable[Destination],
) -> Iterator[tuple[str, torch.Tensor, tuple[int | slice, ...]]]:
    if isinstance(destinations, Mapping):
        for name, tensor in destinations.items():
            yield name, tensor, ()
        return
    for destination in destinations:
        if not isinstance(destination, Destination):
            raise TypeError(f"expected a mapping of names to tensors, or Destinations, got {destination!r:.80}")
        yield destination.name, destination.tensor, destination.index


def _find_memory(name: str, tensor: object) -> int:
    """Return a destination's address, once it is one that bytes can be put to; waits if it is still arriving."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"tensor {name!r}: expected a torch.Tensor to put it into, got {tensor!r:.80}")
    if tensor.layout is not torch.strided:
        raise TypeError(f"tensor {name!r}: bytes can be put into strided tensors only, not {tensor.layout}")
    if not (tensor.is_cpu or tensor.is_cuda):
        raise TypeError(
            f"tensor {name!r}: the destination is on {str(tensor.device)!r}, which has no memory to fill; make a real "
            "tensor on 'cpu' or 'cuda'"
        )
    try:
        address = tensor.data_ptr()
    except StreamloadError:  # a load of its own that has failed
        raise
    except RuntimeError:
        address = 0
    if address == 0 and tensor.numel():
        raise TypeError(f"tensor {name!r}: {type(tensor).__name__} has no memory of its own; fill the tensors in it")
    return address


def _find_part(
    info: TensorInfo, shape: tuple[int, ...], itemsize: int, index: tuple[int | slice, ...], tensor: torch.Tensor
) -> Part:
    try:
        part = take_part(shape, itemsize, index)
    except (IndexError, TypeError, ValueError) as error:
        raise type(error)(f"tensor {info.name!r}: {error}") from None
    if part.shape != tuple(tensor.shape):
        asked = f", {list(part.shape)} of it are asked for" if index else ""
        raise ValueError(
            f"tensor {info.name!r}: the checkpoint has shape {list(shape)}{asked}, and the destination "
            f"{list(tensor.shape)}"
        )
    return part


def _refuse_shared_memory(found: DeviceFill) -> None:
    met = find_overlap(found.blocks)
    if met is not None:
        _, first, second = met
        raise ValueError(
            f"tensors {found.names[first]!r} and {found.names[second]!r} are to be put into the same memory; give each "
            "a destination of its own, and tied ones only once"
        )
