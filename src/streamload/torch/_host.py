"""Tensors in host memory: mapped from the file without a copy, or read range by range.

Floor 4, part of `torch`. A mapped tensor is its own storage over a private mapping of the file: writing to it changes
this process only, and a file truncated under it raises SIGBUS on access, as with safetensors. Ranges are read with
`pread` and counted. Read next: `_safe_open`.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from .._engine import map_file
from .._sources import FileSource
from .._sources._tiers import CachedFile
from ..errors import ShortReadError
from ._dtypes import torch_dtype, torch_shape
from ._memory import place, tensor_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._checkpoint import Shard
    from .._format import TensorInfo
    from .._native import MappedFile
    from .._sources import Source

_CPU = torch.device("cpu")


def can_map(shards: Sequence[Shard]) -> bool:
    """Whether every shard is a local file. What is not comes faster through the copy engine, many requests at once."""
    return all(isinstance(shard.source, FileSource) for shard in shards)


class HostTensors:
    """Make CPU tensors of a checkpoint's bytes: mapped where the file can be, else read.

    Maps each file once, at the first tensor asked of it; a mapping lives as long as a tensor over it or this object.

    Attributes:
        bytes_read: Bytes that were read rather than mapped.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._mappings: dict[int, MappedFile] = {}
        self.bytes_read = 0

    def tensor(self, info: TensorInfo) -> torch.Tensor:
        """Return one whole tensor; writable, with a storage of its own.

        Raises:
            TypeError: Its dtype or shape is one that torch cannot hold.
            ChangedError: The file is no longer the one whose header was read.
            StreamClosedError: The source is closed.
        """
        dtype, shape = torch_dtype(info), torch_shape(info)
        source = self._shards[info.shard].source
        if not isinstance(source, FileSource):
            return self._read_whole(info)
        mappings = self._mappings
        source.fileno()  # raises if it is closed; after `_mappings` was read, so that nothing is kept past `unmap`
        mapping = mappings.get(info.shard)
        if mapping is None:
            mapping = mappings[info.shard] = map_file(source)
        # A file in a tier is not evicted while a tensor over it lives.
        owner = (mapping, source.lease) if isinstance(source, CachedFile) else mapping
        tensor = tensor_over(mapping.address + info.start, info.nbytes, dtype, shape, _CPU, owner)
        # Kernels read whole elements; an element that straddles their alignment is undefined behaviour in C++.
        return tensor if tensor.data_ptr() % dtype.itemsize == 0 else tensor.clone()

    def read(self, info: TensorInfo, ranges: Iterable[tuple[int, int]], nbytes: int) -> torch.Tensor:
        """Read byte ranges of a tensor, one after the other, into new memory; uint8.

        Args:
            info: The tensor that the ranges count from.
            ranges: Half-open.
            nbytes: Their length together.

        Raises:
            ShortReadError: The source ended before its tensor did.
            SourceError: The system reported an error.
            StreamClosedError: The source is closed.
        """
        buffer = torch.empty(nbytes, dtype=torch.uint8, device=_CPU)
        view = _view(buffer)
        done = 0
        for start, end in ranges:
            _read_exactly(self._shards[info.shard].source, info.start + start, view[done : done + end - start])
            done += end - start
        self.bytes_read += done
        return buffer

    def unmap(self) -> None:
        """Let go of the mappings; tensors over them stay valid."""
        self._mappings = {}  # not cleared: another thread may be in `tensor`

    def _read_whole(self, info: TensorInfo) -> torch.Tensor:
        (tensor,) = place([info], _CPU).tensors
        _read_exactly(self._shards[info.shard].source, info.start, _view(tensor))
        self.bytes_read += info.nbytes
        return tensor


def _view(tensor: torch.Tensor) -> memoryview:
    """Return a contiguous CPU tensor's memory; the tensor must outlive the view."""
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes == 0:
        return memoryview(bytearray())
    return memoryview((ctypes.c_ubyte * nbytes).from_address(tensor.data_ptr())).cast("B")


def _read_exactly(source: Source, offset: int, buffer: memoryview) -> None:
    count = source.read_into(offset, buffer)
    if count < len(buffer):
        raise ShortReadError(
            f"{source.url}: expected {len(buffer)} bytes at offset {offset}, got {count}: the file is shorter than "
            "its header says; it was truncated after it was opened",
            url=source.url,
            offset=offset,
            nbytes=len(buffer),
        )
