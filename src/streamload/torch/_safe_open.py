"""Open a safetensors file and take tensors, or parts of them, one at a time.

Floor 4, part of `torch`. Same names, arguments and results as safetensors' `safe_open`; a slice reads the bytes it
needs, where safetensors maps or reads the whole tensor. Read next: `_host` for the CPU, `_submit` for CUDA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._checkpoint import open as open_checkpoint
from .._closing import Closing
from .._plan import Copy
from ..errors import StreamClosedError
from ._dtypes import torch_dtype, torch_shape
from ._host import HostTensors, can_map
from ._memory import place, resolve_device
from ._slice import select
from ._submit import Target, check_options, choose_engine, submit

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from .._engine import CopyEngine
    from .._format import TensorInfo
    from ..options import StreamOptions
    from ._slice import Index

_FRAMEWORKS = ("pt", "torch", "pytorch")


class safe_open(Closing):  # safetensors' name
    """Open a safetensors file; a context manager.

    On the CPU, whole tensors of local files are mapped without a copy and slices are read; on CUDA, and from stores,
    both are read through the copy engine, in the order of the calls. Tensors stay valid after `close`; slices not yet
    taken do not. Safe to use from several threads, `close` among them.

    Args:
        filename: Path or URL of a file, or of a directory that holds a checkpoint.
        framework: "pt". Others are safetensors' own affair.
        device: "cpu", "cuda", "cuda:<n>", a number of a CUDA device, or a `torch.device`.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read, where the copy engine reads.

    Raises:
        ValueError: The framework or the device is not one of those; or `options.verify` was asked for, which needs
            whole tensors (`load_file`, `fill` or `streamload verify` compare them).
        FileNotFoundError: There is no such file.
        FormatError: It is not a valid safetensors file.
        DeviceError: There is no such CUDA device.

    Example:
        >>> with safe_open("model.safetensors", framework="pt") as file:
        ...     part = file.get_slice("embedding.weight")[:, :128]
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str = "pt",
        device: str | int | torch.device = "cpu",
        *,
        storage_options: Mapping[str, object] | None = None,
        options: StreamOptions | None = None,
    ) -> None:
        if framework not in _FRAMEWORKS:
            raise ValueError(f"framework must be 'pt', got {framework!r}; for numpy, jax or others use safetensors")
        check_options(options)
        if options is not None and options.verify:
            raise ValueError(
                "safe_open hands out parts of tensors, which have no checksums of their own; load_file and fill "
                "compare whole tensors, `streamload verify` a whole checkpoint"
            )
        self._device = resolve_device(device)
        self._options = options
        self._engine: CopyEngine | None = None
        self._engine_bytes = 0
        self._checkpoint = open_checkpoint(filename, storage_options=storage_options, options=options)
        self._host = HostTensors(self._checkpoint.shards)
        self._on_host = self._device.type == "cpu" and can_map(self._checkpoint.shards)

    def __repr__(self) -> str:
        return f"safe_open({self._checkpoint.url!r}, device={str(self._device)!r})"

    @property
    def bytes_read(self) -> int:
        """Bytes of tensors and slices read so far. Mapped tensors are not read until they are touched."""
        return self._host.bytes_read + self._engine_bytes

    def keys(self) -> list[str]:
        """Return the tensors' names, sorted."""
        return sorted(self._checkpoint)

    def offset_keys(self) -> list[str]:
        """Return the tensors' names in the order of their bytes in the file."""
        return list(self._checkpoint)

    def metadata(self) -> dict[str, str] | None:
        """Return the header's free text entries; None if there are none."""
        return self._checkpoint.metadata or None

    def get_tensor(self, name: str) -> torch.Tensor:
        """Return a whole tensor on the device.

        Raises:
            KeyError: There is no tensor of that name; the nearest names are offered.
            TypeError: torch has no such dtype, or `name` is not a string.
            SourceError: Reading failed.
            StreamClosedError: The file is closed.
        """
        return self._tensor(self._info(name))

    def get_tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors on the device, in the order of their bytes in the file."""
        return self._take([self._info(name) for name in self.offset_keys()])

    def get_slice(self, name: str) -> SafeSlice:
        """Return an object to index; only what is indexed is read.

        Raises:
            KeyError: There is no tensor of that name; the nearest names are offered.
            TypeError: torch has no such dtype, or `name` is not a string.
            StreamClosedError: The file is closed.
        """
        return SafeSlice(self, self._info(name))

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        self._checkpoint.close()
        self._host.unmap()
        self._engine = None

    def _info(self, name: str) -> TensorInfo:
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name is a str, got {name!r}")
        return self._checkpoint[name]

    def _tensor(self, info: TensorInfo) -> torch.Tensor:
        return self._take([info])[info.name]

    def _take(self, infos: Sequence[TensorInfo]) -> dict[str, torch.Tensor]:
        if self._on_host:
            return {info.name: self._host.tensor(info) for info in infos}
        placement = place(infos, self._device)
        targets = [Target(info, tensor) for info, tensor in zip(infos, placement.tensors, strict=True)]
        self._run([target.copy() for target in targets], placement.blocks)
        return {target.info.name: target.tensor for target in targets}

    def _slice(self, info: TensorInfo, index: Index) -> torch.Tensor:
        if self._checkpoint.closed:
            raise StreamClosedError(f"{self._checkpoint.url}: the file is closed")
        dtype, shape = torch_dtype(info), torch_shape(info)
        selection = select(shape, dtype.itemsize, index)
        ranges = [(start * dtype.itemsize, end * dtype.itemsize) for start, end in selection.ranges]
        if ranges == [(0, info.nbytes)] and selection.gather is None and selection.count == selection.numel:
            return self._tensor(info).reshape(selection.shape).detach()
        nbytes = selection.count * dtype.itemsize
        if self._on_host:
            return selection.apply(self._host.read(info, ranges, nbytes), dtype)
        buffer = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        copies, address = [], buffer.data_ptr()
        for start, end in ranges:
            copies.append(Copy(info.shard, info.start + start, info.start + end, address))
            address += end - start
        self._run(copies, [buffer])
        return selection.apply(buffer, dtype)

    def _run(self, copies: Sequence[Copy], memory: Sequence[object]) -> None:
        engine = self._engine
        if engine is None or engine.closed:
            engine = self._engine = choose_engine(self._device, self._options, None)
        with submit(engine, self._checkpoint, [copies], self._device, memory, None) as ticket:
            ticket.wait()
            self._engine_bytes += ticket.stats().bytes_read


class SafeSlice:
    """A tensor of an open file, to be indexed as a torch tensor is.

    What an index asks for is read then, and no other byte; only where it falls into more than 4096 pieces are those
    nearer than a page read with what lies between. Results are contiguous and own their memory.
    """

    def __init__(self, file: safe_open, info: TensorInfo) -> None:
        torch_dtype(info)
        torch_shape(info)
        self._file = file
        self._info = info

    def __repr__(self) -> str:
        return f"SafeSlice({self._info.name!r}, {self._info.dtype}, shape={list(self._info.shape)})"

    def get_shape(self) -> list[int]:
        """Return the shape, as in the file's header (packed `F4` counts elements, two a byte)."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """Return the dtype's safetensors name, such as "BF16"."""
        return self._info.dtype

    def __getitem__(self, index: Index) -> torch.Tensor:
        return self._file._slice(self._info, index)
