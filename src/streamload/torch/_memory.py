"""Make tensors over memory: who owns it, where it lies, how it is aligned.

Floor 4, part of `torch`. Device memory is taken from torch's caching allocator in large blocks, on the caller's
thread; every tensor over a block is its own storage that keeps the block alive. Read next: `_groups`
for the order of tensors, `_submit` for how they are filled.
"""

from __future__ import annotations

import ctypes
import itertools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.dlpack import from_dlpack

from .._native import HostBlock, export_tensor, make_host_blocks
from ..errors import DeviceError
from ._dtypes import DLPACK_DTYPES, torch_kinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .._format import TensorInfo
    from ._assembly import Assembly

ALIGNMENT = 256
"""Bytes every tensor in a block starts at a multiple of: what the widest vector and tensor-core loads want, and half
of what CUDA's own allocator gives (CUDA C++ Programming Guide, device memory accesses)."""

BLOCK_BYTES = 1 << 30
"""Largest block, unless one tensor is larger: few allocations, and no block so large that a fragmented device has
no room for it."""

GRIDDED_BYTES = 64 << 10
"""Shortest run of a file that is laid onto the grid of direct I/O; for less, a copy out of staging memory is cheap."""

DIRECT_GRID = 4096
"""Direct I/O writes to memory whose address agrees with the file offset by this, on any drive; many ask for less."""

_Row = tuple[int, int, int, int, int]  # of a layout: shard, start, end, which tensor, bytes of an element

_DEVICES = "'cpu', 'cuda', 'cuda:<n>', the number of a CUDA device, or a torch.device"

DLPACK_CPU = 1  # kDLCPU, dlpack.h
DLPACK_CUDA = 2  # kDLCUDA


def resolve_device(device: str | int | torch.device) -> torch.device:
    """Turn what a caller names a device by into a device with an ordinal; an int counts CUDA devices.

    Raises:
        ValueError: It is neither the CPU nor a CUDA device.
        TypeError: It is no text, number or device at all.
        DeviceError: This torch has no CUDA, or there is no such device.
    """
    try:
        found = torch.device(f"cuda:{device}") if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"no device is called {device!r}: expected {_DEVICES}") from error
    except TypeError as error:
        raise TypeError(f"{device!r} names no device: expected {_DEVICES}") from error
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type != "cuda":
        raise ValueError(f"streamload fills 'cpu' and 'cuda' memory, not {device!r}; load to 'cpu' and move from there")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"{device!r} was asked for, but this torch ({torch.__version__}) finds no CUDA device; use device='cpu', "
            "or install a CUDA build of torch"
        )
    ordinal = torch.cuda.current_device() if found.index is None else found.index
    if ordinal >= torch.cuda.device_count():
        raise DeviceError(f"{device!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", ordinal)


def current_stream(device: torch.device) -> int | None:
    """Return the handle of the calling thread's current CUDA stream on a device; None for the CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.current_stream(device).cuda_stream)


def tensor_over(
    address: int, nbytes: int, dtype: torch.dtype, shape: Sequence[int], device: torch.device, owner: object
) -> torch.Tensor:
    """Return a contiguous tensor over existing memory, as a storage of exactly its bytes.

    Args:
        address: First byte. Alignment is the caller's affair.
        nbytes: Length in bytes; the product of `shape` and the dtype's size.
        dtype: Element type.
        shape: Extents.
        device: Where the memory is.
        owner: Kept alive until the tensor's storage is freed.
    """
    (tensor,) = _tensors_over([(address, nbytes, dtype, tuple(shape))], device, owner)
    return tensor


def _tensors_over(
    pieces: Iterable[tuple[int, int, torch.dtype, tuple[int, ...]]], device: torch.device, owner: object
) -> list[torch.Tensor]:
    """Return tensors as `tensor_over` does; address, length, dtype and shape of each."""
    kind, ordinal = (DLPACK_CUDA, device.index) if device.type == "cuda" else (DLPACK_CPU, 0)
    tensors = []
    last, known = None, None
    for address, nbytes, dtype, shape in pieces:
        if dtype is not last:
            last, known = dtype, DLPACK_DTYPES.get(dtype)
        if nbytes == 0:
            tensors.append(torch.empty(shape, dtype=dtype, device=device))
        elif known is not None:
            tensors.append(from_dlpack(export_tensor(address, shape, known[0], known[1], kind, ordinal, owner)))
        elif isinstance(owner, HostBlock):
            at = address - owner.address
            flat = torch.frombuffer(owner, dtype=dtype, count=nbytes // dtype.itemsize, offset=at)
            tensors.append(flat.resize_(shape))
        else:
            raw = from_dlpack(export_tensor(address, (nbytes,), *DLPACK_DTYPES[torch.uint8], kind, ordinal, owner))
            tensors.append(reinterpret(raw, dtype, shape))
    return tensors


def reinterpret(raw: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """Return a contiguous tensor over the start of another's storage.

    Not `raw.view(dtype)`, whose result would be an autograd view with `raw` as its base.
    """
    tensor = torch.empty(0, dtype=dtype, device=raw.device)
    stride = list(itertools.accumulate(reversed(shape), operator.mul, initial=1))[-2::-1]
    return tensor.set_(raw.untyped_storage(), 0, tuple(shape), stride)


def allocate(nbytes: int, device: torch.device) -> tuple[int, object]:
    """Take memory that begins at a multiple of `ALIGNMENT`, on the calling thread and its current stream.

    Returns:
        The address, and what owns the memory: `nbytes + ALIGNMENT`, unless that is nothing.

    Raises:
        torch.OutOfMemoryError, MemoryError: As `place`.
    """
    size = nbytes + ALIGNMENT if nbytes else 0
    if device.type == "cpu":
        (host,) = make_host_blocks([size])
        return -(-host.address // ALIGNMENT) * ALIGNMENT, host
    block = torch.empty(size, dtype=torch.uint8, device=device)
    return -(-block.data_ptr() // ALIGNMENT) * ALIGNMENT, block


def poison(blocks: Iterable[object]) -> None:
    """Fill new memory with 0xFF bytes, which every float format reads as NaN: a use before its bytes arrive shows.

    Args:
        blocks: Of a `Placement`. Those on a device are filled in the order of the current stream.
    """
    for block in blocks:
        if isinstance(block, HostBlock):
            ctypes.memset(block.address, 0xFF, block.nbytes)
        elif isinstance(block, torch.Tensor):
            block.fill_(0xFF)


@dataclass(frozen=True, slots=True)
class Placement:
    """Tensors laid out in fresh memory that no byte has been written to.

    Attributes:
        tensors: One per tensor asked for, in the same order.
        addresses: Of their first bytes; of no meaning where a tensor has none.
        blocks: What owns the memory, which lives as long as a tensor over it or this list.
    """

    tensors: list[torch.Tensor]
    addresses: list[int]
    blocks: list[object]


def place(
    infos: Sequence[TensorInfo | Assembly],
    device: torch.device,
    *,
    block_bytes: int = BLOCK_BYTES,
    as_in_file: bool = False,
) -> Placement:
    """Allocate memory for tensors, side by side in blocks, on the calling thread and its current stream.

    On the CPU blocks lie on huge pages, which cost a fifth of what small ones do to touch for the first time; at most
    an eighth more than was asked for becomes resident. Nothing here touches them: threads that read into them do.

    Args:
        infos: The tensors, in the order in which they are to fill blocks.
        device: Where.
        block_bytes: Largest block; a larger tensor has a block of its own.
        as_in_file: On the CPU, let what follows each other in a file do so in a block, aligned to its elements only
            (`lay_out`): fastest to fill. Otherwise every tensor begins at a multiple of `ALIGNMENT`, as on CUDA: what
            computes with it takes the path, and rounds, as it does with torch's own memory. Not for assemblies.

    Raises:
        TypeError: A dtype or shape is one that torch cannot hold.
        torch.OutOfMemoryError: The device has not enough memory.
        MemoryError: The system has not enough, on the CPU.
    """
    kinds = torch_kinds(infos)
    planned = list(_plan_blocks(infos, kinds, block_bytes, as_in_file=as_in_file and device.type == "cpu"))
    sizes = [block.nbytes + block.grid if block.nbytes else 0 for block in planned]
    placement = Placement([], [], [])
    if device.type == "cpu":  # all at once: each call for a mapping waits for the page faults of threads that read
        placement.blocks.extend(make_host_blocks(sizes))
    else:
        placement.blocks.extend(torch.empty(size, dtype=torch.uint8, device=device) for size in sizes)
    for owner, block in zip(placement.blocks, planned, strict=True):
        begin = owner.address if isinstance(owner, HostBlock) else cast("torch.Tensor", owner).data_ptr()
        begin = -(-begin // block.grid) * block.grid
        addresses = [begin + offset for offset in block.offsets]
        part = slice(len(placement.tensors), len(placement.tensors) + len(addresses))
        pieces = [
            (address, info.nbytes, dtype, shape)
            for address, info, (dtype, shape) in zip(addresses, infos[part], kinds[part], strict=True)
        ]
        placement.tensors.extend(_tensors_over(pieces, device, owner))
        placement.addresses.extend(addresses)
    return placement


@dataclass(frozen=True, slots=True)
class _Block:
    """Tell where tensors begin in a block, its bytes, and what its first one must be at a multiple of."""

    offsets: list[int]
    nbytes: int
    grid: int


def _plan_blocks(
    infos: Sequence[TensorInfo | Assembly],
    kinds: Sequence[tuple[torch.dtype, tuple[int, ...]]],
    most: int,
    *,
    as_in_file: bool,
) -> Iterator[_Block]:
    padded = [-(-info.nbytes // ALIGNMENT) * ALIGNMENT for info in infos]
    first = 0
    while first < len(infos):
        last, size = first + 1, padded[first]
        while last < len(infos) and size + padded[last] <= most:
            size += padded[last]
            last += 1
        if as_in_file:
            itemsizes = [dtype.itemsize for dtype, _ in kinds[first:last]]
            yield _Block(*lay_out(cast("Sequence[TensorInfo]", infos[first:last]), itemsizes))
        else:
            yield _Block(list(itertools.accumulate(padded[first : last - 1], initial=0)), size, ALIGNMENT)
        first = last


def lay_out(infos: Sequence[TensorInfo], itemsizes: Sequence[int]) -> tuple[list[int], int, int]:
    """Lay tensors out as they are in the file, so that one read fills neighbours with one copy.

    Tensors that follow each other in a file do so in memory, where each then is aligned to its elements; a run of at
    least `GRIDDED_BYTES` lies as its file offset does in a page, so that direct I/O can write to it. All others
    begin at multiples of `ALIGNMENT`. What lies between is less than a sixteenth of a run, or `ALIGNMENT`.

    Returns:
        Where each tensor begins, the bytes for all, and what the first of them must be a multiple of.
    """
    offsets = [0] * len(infos)
    rows = sorted(
        [
            (info.shard, info.start, info.end, index, itemsize)
            for index, (info, itemsize) in enumerate(zip(infos, itemsizes, strict=True))
        ]
    )
    at, grid = 0, ALIGNMENT
    for run in _runs(rows):
        begin, end = run[0][1], run[-1][2]
        if (len(run) > 1 or end - begin >= GRIDDED_BYTES) and not any([row[1] % row[4] for row in run]):
            step = DIRECT_GRID if end - begin >= GRIDDED_BYTES else ALIGNMENT
            grid = max(grid, step)
            at += (begin - at) % step
            for _, start, _, index, _ in run:
                offsets[index] = at + start - begin
            at += end - begin
        else:
            for _, start, stop, index, _ in run:
                at += -at % ALIGNMENT
                offsets[index] = at
                at += stop - start
    return offsets, at, grid


def _runs(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """Yield tensors, in the order of the files, by what follows each other without a gap."""
    first = last_shard = last_end = 0
    for at, (shard, start, end, _, _) in enumerate(rows):
        if (start != last_end or shard != last_shard) and at:
            yield rows[first:at]
            first = at
        last_shard, last_end = shard, end
    if rows:
        yield rows[first:]
