"""Take a module's weights off the device while nobody needs them: they are still in their files.

Floor 4, part of `torch`. A sleeping tensor is the same object, with its shape, strides, dtype and device, and no
memory; its gate raises at every use. Only what is still as it was loaded may sleep, since waking brings back the file's
bytes.
Read next: `_module_stream`, which wakes.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NoReturn

import torch

from ..errors import StreamClosedError
from ._failure import raise_again
from ._gate import arriving_load, close_gate, without_gates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._format import TensorInfo
    from ._assembly import Assembly
    from ._seats import Seat

_ASLEEP = "the module is asleep, its weights are not on the device; call wake() before using it"


class Bed:
    """Remember one loaded tensor of a module, without keeping it or the module alive.

    Args:
        found: Where it sits.
        tensor: The tensor as it is filled: its memory, and how often it was written to so far, are taken down. The
            caller is in `without_gates`.
        info: What of the checkpoint it holds: a tensor, or parts of several.
        table: Whether it is an embedding table whose rows can be looked up.
    """

    __slots__ = ("_address", "_name", "_places", "_version", "info", "table")

    def __init__(self, found: Seat, tensor: torch.Tensor, info: TensorInfo | Assembly, *, table: bool) -> None:
        self.info = info
        self.table = table
        self._name = found.names[0]
        self._places = [(weakref.ref(owner), attribute) for owner, attribute in found.places]
        self.remember(tensor)

    def remember(self, tensor: torch.Tensor) -> None:
        """Take down where a tensor's bytes are, and how often it was written to; called in `without_gates`."""
        self._address = _address(tensor)
        self._version = _version(tensor)

    def tensor(self) -> torch.Tensor | None:
        """Return the tensor, once it is sure that it is as it was loaded; None if its module is gone.

        Raises:
            RuntimeError: It was written to, converted, moved or replaced: sleep would lose that.
        """
        for place, attribute in self._places:
            owner = place()
            if owner is None:
                continue
            held = owner._parameters if attribute in owner._parameters else owner._buffers
            there = held.get(attribute)
            with without_gates():
                if there is None or _address(there) != self._address:
                    self._refuse("it was converted, moved or replaced")
                if _version(there) != self._version:
                    self._refuse("it was written to")
            return there
        return None

    def _refuse(self, why: str) -> NoReturn:
        raise RuntimeError(
            f"{self._name} is no longer as it was loaded ({why}), and waking would bring the file's bytes back; "
            "save the module, and stream one from what was saved"
        )


class Asleep:
    """Stand for a load in the gates of tensors without memory.

    Args:
        error: What every use raises. None: that they sleep.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = StreamClosedError(_ASLEEP) if error is None else error

    def order(self, group: int) -> bool:
        """Refuse every use."""
        del group
        raise_again(self._error)

    def settle(self, group: int) -> None:
        """Refuse every use."""
        self.order(group)

    def look_up(self, group: int, tensor: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
        """Refuse every use."""
        del tensor, ids
        self.order(group)
        return None


def put_to_sleep(tensors: Sequence[torch.Tensor], device: torch.device, error: BaseException | None = None) -> None:
    """Close the tensors' gates and let go of their memory; blocks until the device has done what it was given.

    Args:
        tensors: Behind an open gate, or that of an `Arriving`.
        device: Where they are.
        error: What every use raises from now on. None: that they sleep.
    """
    gate = Asleep(error)
    for tensor in tensors:
        close_gate(tensor, gate, 0)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # whatever stream computes with them
    with torch.no_grad(), without_gates():
        forms = [(tensor.size(), tensor.stride()) for tensor in tensors]
        for tensor in tensors:  # all of the memory first: on a device that is full there is none for what follows
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        for tensor, (size, stride) in zip(tensors, forms, strict=True):
            tensor.data = _hollow(tensor, size, stride)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # others on this GPU are to have it


def lacks_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor was put to sleep: its gate is closed and its storage has no bytes."""
    return isinstance(arriving_load(tensor), Asleep)


def give_memory(tensors: Sequence[torch.Tensor], memory: Sequence[torch.Tensor]) -> None:
    """Put sleeping tensors over new memory; their gates stay closed."""
    with torch.no_grad(), without_gates():
        for tensor, fresh in zip(tensors, memory, strict=True):
            tensor.data = fresh


def _hollow(like: torch.Tensor, size: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Return a tensor of a form over no memory.

    It takes its memory for a moment, as torch knows no other way. Where there is none, one element stands for all,
    which reads as NaN: strides then are 0.
    """
    try:
        form = torch.empty_strided(size, stride, dtype=like.dtype, device=like.device)
    except RuntimeError:  # torch.OutOfMemoryError is one
        one = torch.full((like.element_size(),), 0xFF, dtype=torch.uint8, device=like.device)
        return one.view(like.dtype)[0].expand(size)
    form.untyped_storage().resize_(0)
    return form


def _address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided and not tensor.is_meta else 0


def _version(tensor: torch.Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:  # torch counts none for a tensor made, or given memory, in inference mode
        return None
