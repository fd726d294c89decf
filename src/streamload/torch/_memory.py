"""Make tensors over memory: who owns it, where it lies, how it is aligned.

Floor 4, part of `torch`. Device memory is taken from torch's caching allocator in large blocks, on the caller's
thread; every tensor over a block is its own storage that keeps the block alive. Read next: `_groups`
for the order of tensors, `_submit` for how they are filled.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.dlpack import from_dlpack

from .._native import export_tensor
from ..errors import DeviceError
from ._dtypes import torch_dtype, torch_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._format import TensorInfo

ALIGNMENT = 256
"""Bytes every tensor in a block starts at a multiple of: what the widest vector and tensor-core loads want, and half
of what CUDA's own allocator gives (CUDA C++ Programming Guide, device memory accesses)."""

BLOCK_BYTES = 1 << 30
"""Largest block, unless one tensor is larger: few allocations, and no block so large that a fragmented device has
no room for it."""

_DEVICES = "'cpu', 'cuda', 'cuda:<n>', the number of a CUDA device, or a torch.device"

_DLPACK_CPU = 1  # kDLCPU, dlpack.h
_DLPACK_CUDA = 2  # kDLCUDA


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
    if nbytes == 0:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    kind, ordinal = (_DLPACK_CUDA, device.index) if device.type == "cuda" else (_DLPACK_CPU, 0)
    return reinterpret(from_dlpack(export_tensor(address, nbytes, kind, ordinal, owner)), dtype, shape)


def reinterpret(raw: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """Return a contiguous tensor over the start of another's storage.

    Not `raw.view(dtype)`, whose result would be an autograd view with `raw` as its base.
    """
    tensor = torch.empty(0, dtype=dtype, device=raw.device)
    stride = list(itertools.accumulate(reversed(shape), operator.mul, initial=1))[-2::-1]
    return tensor.set_(raw.untyped_storage(), 0, tuple(shape), stride)


@dataclass(frozen=True, slots=True)
class Placement:
    """Tensors laid out in fresh memory that no byte has been written to.

    Attributes:
        tensors: One per tensor asked for, in the same order.
        blocks: The memory, uint8, which lives as long as a tensor over it or this list.
    """

    tensors: list[torch.Tensor]
    blocks: list[torch.Tensor]


def place(infos: Sequence[TensorInfo], device: torch.device, *, block_bytes: int = BLOCK_BYTES) -> Placement:
    """Allocate memory for tensors, side by side in blocks, on the calling thread and its current stream.

    Args:
        infos: The tensors, in the order in which they are to lie.
        device: Where.
        block_bytes: Largest block; a larger tensor has a block of its own.

    Raises:
        TypeError: A dtype or shape is one that torch cannot hold.
        torch.OutOfMemoryError: The device has not enough memory.
    """
    kinds = [(torch_dtype(info), torch_shape(info)) for info in infos]
    placement = Placement([], [])
    first = 0
    while first < len(infos):
        last, size = first, 0
        while last < len(infos) and (last == first or size + _padded(infos[last].nbytes) <= block_bytes):
            size += _padded(infos[last].nbytes)
            last += 1
        block = torch.empty(size + ALIGNMENT if size else 0, dtype=torch.uint8, device=device)
        address = _padded(block.data_ptr())
        for info, (dtype, shape) in zip(infos[first:last], kinds[first:last], strict=True):
            placement.tensors.append(tensor_over(address, info.nbytes, dtype, shape, device, block))
            address += _padded(info.nbytes)
        placement.blocks.append(block)
        first = last
    return placement


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
