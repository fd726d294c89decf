"""Fill tensors whose bytes cannot be put in place as they are: through a little memory, then by torch's own `copy_`.

Floor 4, part of `torch`. Two buffers for each device: while one is read into, the other is cast out of. Read next:
`_fill`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._dtypes import torch_dtype
from ._layout import narrow, packed_stride, split
from ._memory import ALIGNMENT
from ._submit import copies_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .._engine import Ticket
    from .._format import TensorInfo
    from .._plan import Copy
    from ._layout import Part

    Start = Callable[[torch.device, Sequence[Copy], Sequence[object]], Ticket]

TRANSIENT_BYTES = 64 << 20
"""Most transient memory of one call, on all devices together: half of it is 0.6 ms of a PCIe 5 link, long against the
start of a ticket."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A part of a checkpoint's tensor, and the tensor of the same shape that it is cast or rearranged into."""

    info: TensorInfo
    part: Part
    tensor: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Load:
    """A piece of a conversion, and where in a buffer it lies meanwhile."""

    conversion: Conversion
    index: tuple[slice, ...]
    part: Part
    offset: int


def check_cast(info: TensorInfo, tensor: torch.Tensor) -> None:
    """Refuse a cast that torch does not know.

    Raises:
        TypeError: As said.
    """
    try:
        torch.empty(1, dtype=tensor.dtype, device=tensor.device).copy_(
            torch.empty(1, dtype=torch_dtype(info), device=tensor.device)
        )
    except (RuntimeError, TypeError) as error:  # NotImplementedError among them
        raise TypeError(f"tensor {info.name!r} is {info.dtype}, which torch cannot cast to {tensor.dtype}") from error


def convert(device: torch.device, conversions: Sequence[Conversion], room: int, start: Start) -> Iterator[None]:
    """Fill tensors on one device; submits one window at each step and finishes the one before.

    Args:
        device: Where the tensors are.
        conversions: What to fill.
        room: Most bytes of memory to use.
        start: Submits copies that read into memory given with them.
    """
    most = room // 2 - ALIGNMENT  # of an element more at most, if it is larger than that
    windows = list(_windows(conversions, most))
    size = max([loads[-1].offset + loads[-1].part.nbytes for loads in windows])
    buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in windows[:2]]
    before: tuple[Ticket, list[_Load], torch.Tensor] | None = None
    for number, loads in enumerate(windows):
        # On CUDA the first copy waits for the current stream, and so for the casts out of this buffer.
        buffer = buffers[number % 2]
        copies = [copy for load in loads for copy in _copies(load, buffer.data_ptr())]
        ticket = start(device, copies, [buffer])
        if before is not None:
            before[0].wait()
            _finish(*before)
        before = ticket, loads, buffer
        yield
    if before is not None:
        before[0].wait()
        _finish(*before)


def _windows(conversions: Sequence[Conversion], most: int) -> Iterator[list[_Load]]:
    loads: list[_Load] = []
    used = 0
    for conversion in conversions:
        for index in split(conversion.part.shape, conversion.part.itemsize, most):
            part = narrow(conversion.part, index)
            if loads and used + part.nbytes > most:
                yield loads
                loads, used = [], 0
            loads.append(_Load(conversion, index, part, used))
            used = -(-(used + part.nbytes) // ALIGNMENT) * ALIGNMENT
    if loads:
        yield loads


def _copies(load: _Load, address: int) -> list[Copy]:
    stride = packed_stride(load.part.shape, load.part.itemsize)
    return copies_into(load.conversion.info, load.part, stride, address + load.offset)


def _finish(ticket: Ticket, loads: Sequence[_Load], buffer: torch.Tensor) -> None:
    for load in loads:
        tensor = load.conversion.tensor
        with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
            raw = buffer[load.offset : load.offset + load.part.nbytes]
            tensor[load.index].copy_(raw.view(torch_dtype(load.conversion.info)).view(load.part.shape))
    ticket.close()
