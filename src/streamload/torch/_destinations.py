"""Check what a checkpoint's tensors are to be put into, and find the bytes of each.

Floor 4, part of `torch`. Whatever a caller calls a destination is looked at here, and refused here. Read next:
`_layout` for views that are not contiguous, `_fill` for what becomes of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import torch

from .._checkpoint import infos_of
from .._collector import collector_paused
from .._format import TensorInfo
from .._native import match_destinations
from .._plan import Copy, find_overlap
from ..errors import StreamloadError
from ._convert import Conversion, check_cast
from ._dtypes import DLPACK_REALS, torch_dtype, torch_shape
from ._layout import blocks_of, suits, take_part
from ._memory import DLPACK_CUDA
from ._submit import copies_into

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._checkpoint import Checkpoint
    from .._plan import Block
    from ._layout import Part

_CPU = torch.device("cpu")
_PLAIN_KINDS = (torch.Tensor, torch.nn.Parameter)


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
    """What goes to one device.

    Attributes:
        whole: Copies of whole tensors to contiguous ones, the fields of each one after the other.
        whole_names: Of those tensors.
        copies: All others.
        conversions: What is cast, or put into another order.
        tensors: That copies write to.
        blocks: What all but the whole ones write to.
        names: Whose block it is.
    """

    whole: array[int] = field(default_factory=lambda: array("Q"))
    whole_names: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    conversions: list[Conversion] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def group(self) -> array[int]:
        """Return all copies as one group of a plan."""
        return self.whole + array("Q", chain.from_iterable(self.copies))

    def refuse_shared_memory(self) -> None:
        """Refuse two destinations that share memory.

        Raises:
            ValueError: Some do; it names them.
        """
        met = find_overlap(self.blocks, self.whole)
        if met is not None:
            names = [*self.names, *self.whole_names]
            raise ValueError(
                f"tensors {names[met[1]]!r} and {names[met[2]]!r} are to be put into the same memory; give each a "
                "destination of its own, and tied ones only once"
            )


@collector_paused()
def sort_by_device(
    checkpoint: Checkpoint, destinations: Mapping[str, torch.Tensor] | Iterable[Destination]
) -> dict[torch.device, DeviceFill]:
    """Check every destination, and work out how its bytes get there.

    What nearly all are, contiguous tensors for whole ones of the checkpoint, the native core finds out where torch has
    the table of DLPack's exchange (2.10); `_add` looks at all others.

    Raises:
        KeyError, TypeError, ValueError, IndexError, StreamClosedError: As `fill`.
    """
    devices: dict[torch.device, DeviceFill] = {}
    known_casts: set[tuple[str, torch.dtype, torch.device]] = set()
    infos = infos_of(checkpoint)
    items, parts = _take_apart(destinations)
    rest = items
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if exchange is not None:
        found, rest = match_destinations(
            exchange, items, infos, TensorInfo, DLPACK_REALS, _PLAIN_KINDS, torch.Tensor.is_neg
        )
        for kind, ordinal, copies, whole_names, whole in found:
            device = torch.device("cuda", ordinal) if kind == DLPACK_CUDA else _CPU
            devices[device] = DeviceFill(array("Q", copies), whole_names, tensors=whole)
    for name, tensor, index in [*((name, tensor, ()) for name, tensor in rest), *parts]:
        info = infos.get(name) or checkpoint[name]
        _add(devices, known_casts, info, torch_dtype(info), tensor, index)
    return devices


def _add(
    devices: dict[torch.device, DeviceFill],
    known_casts: set[tuple[str, torch.dtype, torch.device]],
    info: TensorInfo,
    dtype: torch.dtype,
    tensor: torch.Tensor,
    index: tuple[int | slice, ...],
) -> None:
    """Add one destination, whatever it is."""
    shape = torch_shape(info)
    address, device = _find_memory(info.name, tensor), tensor.device
    found = devices.setdefault(device, DeviceFill())
    plain = tensor.dtype == dtype and not (tensor.is_conj() or tensor.is_neg())
    if plain and index == () and tensor.shape == shape and tensor.is_contiguous():
        if info.end > info.start:
            found.blocks.append((address, info.end - info.start, 1, 0))
            found.names.append(info.name)
            found.tensors.append(tensor)
            found.copies.append(Copy(info.shard, info.start, info.end, address))
        return
    part = _find_part(info, shape, dtype.itemsize, index, tensor)
    stride = tuple([step * tensor.element_size() for step in tensor.stride()])
    blocks = blocks_of(address, tensor.shape, stride, tensor.element_size())
    if blocks is None:
        raise TypeError(
            f"tensor {info.name!r}: elements of the destination cannot be shown not to share memory; fill what it "
            "is a view of"
        )
    found.blocks += blocks
    found.names += [info.name] * len(blocks)
    if plain and suits(part, stride):
        found.tensors.append(tensor)
        found.copies += copies_into(info, part, stride, address)
    elif blocks:
        if (info.dtype, tensor.dtype, device) not in known_casts:
            check_cast(info, tensor)
            known_casts.add((info.dtype, tensor.dtype, device))
        found.conversions.append(Conversion(info, part, tensor))


def _take_apart(
    destinations: Mapping[str, torch.Tensor] | Iterable[Destination],
) -> tuple[list[tuple[str, torch.Tensor]], list[tuple[str, torch.Tensor, tuple[int | slice, ...]]]]:
    """Return what is for whole tensors of the checkpoint, and what for parts, with their indices."""
    if isinstance(destinations, Mapping):
        return list(destinations.items()), []  # at once: somebody else may be changing it
    whole: list[tuple[str, torch.Tensor]] = []
    parts: list[tuple[str, torch.Tensor, tuple[int | slice, ...]]] = []
    for destination in destinations:
        if not isinstance(destination, Destination):
            raise TypeError(f"expected a mapping of names to tensors, or Destinations, got {destination!r:.80}")
        if destination.index == ():
            whole.append((destination.name, destination.tensor))
        else:
            parts.append((destination.name, destination.tensor, destination.index))
    return whole, parts


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
