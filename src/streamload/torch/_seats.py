"""Find every parameter and buffer of a module, and what of a checkpoint belongs into it.

Floor 4, part of `torch`. A seat is one tensor object with every place of the module that it is at, so that tied
weights stay one object. All that is wrong is gathered and told at once, in `load_state_dict`'s words. Read next:
`_module_stream`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from heapq import nlargest
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as module_hooks
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from ._dtypes import torch_dtype, torch_shape
from ._gate import without_gates
from ._submit import check_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo

_MOST_GUESSES = 8  # nearest names offered
_MOST_COMPARED = 64  # names of the file compared in full for each: 0.1 ms a name
_LONGEST_COMPARED = 400  # characters
_SCRIPTED = "TorchScript"
_DEEPEST = 1000  # modules inside each other; one that contains itself has no end
_PLAIN = frozenset((torch.nn.Parameter, torch.Tensor))


@dataclass(slots=True)
class Seat:
    """A parameter or persistent buffer of a module.

    Attributes:
        tensor: The object that is there now.
        places: Owner and attribute of each place it is at.
        names: Its full names, in the order of the module's state dict.
    """

    tensor: torch.Tensor
    places: list[tuple[torch.nn.Module, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def put(self, tensor: torch.Tensor) -> None:
        """Set another tensor, of the same class, in every place."""
        if tensor is self.tensor:
            return
        for owner, attribute in self.places:
            held: dict[str, Any] = owner._parameters if attribute in owner._parameters else owner._buffers
            if attribute in held and _sets_as_torch_does(owner, attribute) and not _hears_of_tensors():
                held[attribute] = tensor  # what setattr comes to, after 20 µs
            else:
                setattr(owner, attribute, tensor)
        self.tensor = tensor


@dataclass(frozen=True, slots=True)
class Seating:
    """What goes where.

    Attributes:
        taken: Seat and tensor of the checkpoint, in the module's order.
        empty: Seats that the checkpoint has nothing for.
        missing_keys: Their names.
        unexpected_keys: Names of the checkpoint that the module does not have.
        owners: Every module in it, the module itself first.
    """

    taken: list[tuple[Seat, TensorInfo]]
    empty: list[Seat]
    missing_keys: list[str]
    unexpected_keys: list[str]
    owners: list[torch.nn.Module]


def seat(module: torch.nn.Module, checkpoint: Checkpoint, device: torch.device, *, strict: bool) -> Seating:
    """Match a module's parameters and persistent buffers with a checkpoint's tensors, by name.

    Of a tied tensor's names one is enough; where the file has several, the last in the module's order counts, as in
    `load_state_dict`. A missing `num_batches_tracked` is none, as there.

    Raises:
        RuntimeError: `strict` and names are missing or unexpected; a shape, a dtype or a device differs; a buffer
            that no checkpoint holds is on the meta device. The message lists all of it.
        TypeError: The checkpoint is none, the module loads itself in a way of its own, or torch lacks a dtype.
    """
    check_checkpoint(checkpoint)
    seats: dict[int, Seat] = {}
    unsaved: list[str] = []
    beside: list[tuple[str, torch.Tensor]] = []  # real tensors that nothing is loaded into
    owners = list(walk(module))
    _refuse_custom_loading(owners)
    for prefix, owner in owners:
        for attribute, tensor in tensors_of(owner):
            if attribute in owner._non_persistent_buffers_set:
                if tensor.is_meta:
                    unsaved.append(prefix + attribute)
                else:
                    beside.append((prefix + attribute, tensor))
                continue
            found = seats.setdefault(id(tensor), Seat(tensor))
            found.places.append((owner, attribute))
            found.names.append(prefix + attribute)

    taken: list[tuple[Seat, TensorInfo]] = []
    empty: list[Seat] = []
    for found in seats.values():
        present = [name for name in found.names if name in checkpoint]
        if present:
            taken.append((found, checkpoint[present[-1]]))
        else:
            empty.append(found)
    missing = [name for found in empty for name in found.names if not _is_batch_counter(found)]
    known = {name for found in seats.values() for name in found.names}
    unexpected = [name for name in checkpoint if name not in known]
    seating = Seating(taken, empty, missing, unexpected, [owner for _, owner in owners])
    wrong = _name_errors(seating) if strict else []
    wrong += [text for found, info in taken for text in _fit_errors(found, info, device)]
    beside += [(found.names[0], found.tensor) for found in empty]
    wrong += _alias_errors([found for found, _ in taken], beside)
    if unsaved:
        wrong.append(
            f"Buffer(s) on the meta device that no checkpoint holds: {_quoted(unsaved)}; build the module with real "
            "buffers and put only parameters on meta, as accelerate.init_empty_weights() does"
        )
    if wrong:
        raise RuntimeError(f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(wrong))
    return seating


def fill_batch_counters(seating: Seating, device: torch.device) -> None:
    """Make real the `num_batches_tracked` that the checkpoint lacks, at the 0 that batch norm starts from."""
    for found in seating.empty:
        if _is_batch_counter(found) and found.tensor.is_meta:
            found.put(torch.zeros_like(found.tensor, device=device))


def walk(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield prefix and module in the order of `state_dict`, a module met twice twice.

    Raises:
        RecursionError: A module contains itself.
    """
    ahead = [("", module, 0)]
    while ahead:
        prefix, owner, depth = ahead.pop()
        yield prefix, owner
        if depth > _DEEPEST:
            raise RecursionError(f"module {prefix[:80]!r}... contains itself, or is more than {_DEEPEST} modules deep")
        inside = [(f"{prefix}{name}.", child, depth + 1) for name, child in owner._modules.items() if child is not None]
        ahead += reversed(inside)


def tensors_of(owner: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return a module's own parameters and buffers, saved or not, with their attributes."""
    held = [(name, tensor) for name, tensor in owner._parameters.items() if tensor is not None]
    return held + [(name, tensor) for name, tensor in owner._buffers.items() if tensor is not None]


def gather(module: torch.nn.Module) -> list[Seat]:
    """Return a module's parameters and buffers, saved or not, in its order, each with every place it is at, once."""
    seats: dict[int, Seat] = {}
    for prefix, owner in walk(module):
        for attribute, tensor in tensors_of(owner):
            found = seats.setdefault(id(tensor), Seat(tensor))
            if (owner, attribute) not in found.places:
                found.places.append((owner, attribute))
            found.names.append(prefix + attribute)
    return list(seats.values())


def _sets_as_torch_does(owner: torch.nn.Module, attribute: str) -> bool:
    """Whether setting an attribute that is there comes to putting it among the module's own."""
    kind, stock, own = type(owner), torch.nn.Module, owner.__dict__
    return (
        kind.__setattr__ is stock.__setattr__
        and kind.register_parameter is stock.register_parameter
        and kind.register_buffer is stock.register_buffer
        and own.keys().isdisjoint((attribute, "register_parameter", "register_buffer"))
    )


def _hears_of_tensors() -> bool:
    """Whether anybody asked torch to be told of tensors that are set."""
    return bool(module_hooks._global_parameter_registration_hooks or module_hooks._global_buffer_registration_hooks)


def _refuse_custom_loading(owners: Sequence[tuple[str, torch.nn.Module]]) -> None:
    of_class: dict[type, str | None] = {}  # a model has many modules of few classes
    for prefix, owner in owners:
        kind: type = type(owner)
        if kind not in of_class:
            of_class[kind] = _custom_loading(kind)
        custom = of_class[kind]
        if custom is None and (owner._load_state_dict_pre_hooks or owner._load_state_dict_post_hooks):
            custom = _first_foreign(
                *owner._load_state_dict_pre_hooks.values(), *owner._load_state_dict_post_hooks.values()
            )
        if custom is None:
            continue
        where = prefix.rstrip(".") or "(the model itself)"
        if custom == _SCRIPTED:
            raise TypeError(
                f"module {where!r} ({kind.__name__}) is TorchScript, whose C++ code would not wait for its weights; "
                "use load_model"
            )
        raise TypeError(
            f"module {where!r} ({kind.__name__}) changes its state dict while it loads ({custom}); stream_module puts "
            "bytes where they belong as they are, so use load_model"
        )


def _custom_loading(kind: type[torch.nn.Module]) -> str | None:
    """Return what of a class loads in a way of its own, or None."""
    if issubclass(kind, torch.jit.ScriptModule):
        return _SCRIPTED
    return _first_foreign(kind._load_from_state_dict, kind.set_extra_state)


def _first_foreign(*hooks: object) -> str | None:
    """Return the name of the first that is not torch's own, or None."""
    for hook in hooks:
        inner = getattr(hook, "hook", hook)
        if not str(getattr(inner, "__module__", "")).startswith("torch."):
            return str(getattr(inner, "__qualname__", inner))
    return None


def _is_batch_counter(found: Seat) -> bool:
    return all(isinstance(owner, _NormBase) and name == "num_batches_tracked" for owner, name in found.places)


def _name_errors(seating: Seating) -> list[str]:
    wrong = []
    if seating.missing_keys:
        wrong.append(f"Missing key(s) in state_dict: {_quoted(seating.missing_keys)}.")
    if seating.unexpected_keys:
        wrong.append(f"Unexpected key(s) in state_dict: {_quoted(seating.unexpected_keys)}.")
    known = [(frozenset(name.split(".")), name) for name in seating.unexpected_keys if len(name) <= _LONGEST_COMPARED]
    for name in seating.missing_keys[:_MOST_GUESSES]:
        near = _nearest(name, known)
        wrong += [f'Nearest to "{name}" in the file: "{near}".'] if near else []
    return wrong


def _nearest(name: str, known: Sequence[tuple[frozenset[str], str]]) -> str | None:
    """Return the name that comes nearest, comparing in full only those that share most parts and are as long."""
    wanted = name[:_LONGEST_COMPARED]
    parts = wanted.split(".")
    likely = nlargest(
        _MOST_COMPARED, known, key=lambda other: (len(other[0].intersection(parts)), -abs(len(other[1]) - len(wanted)))
    )
    near = get_close_matches(wanted, [other for _, other in likely], n=1)
    return near[0] if near else None


def _fit_errors(found: Seat, info: TensorInfo, device: torch.device) -> Iterator[str]:
    tensor, name = found.tensor, info.name
    if tensor.is_meta and type(tensor) in _PLAIN and tensor.shape == info.shape and info.dtype != "F4":
        return  # nearly always
    if is_lazy(tensor):
        yield f"{name} has no shape yet: run a lazy module once before it is loaded"
        return
    dtype, shape = torch_dtype(info), torch_shape(info)
    if tuple(tensor.shape) != shape:
        yield (
            f"size mismatch for {name}: copying a param with shape {torch.Size(shape)} from checkpoint, the shape in "
            f"current model is {tensor.shape}."
        )
    if tensor.is_meta:
        return
    if tensor.dtype != dtype:
        yield (
            f"dtype mismatch for {name}: the file has {info.dtype} ({dtype}), the tensor is {tensor.dtype}; build the "
            "module with the file's dtype, or on the meta device to take it over"
        )
    if tensor.device != device:
        yield f"device mismatch for {name}: expected {device}, got {tensor.device}; move the module or build it on meta"
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        yield f"layout mismatch for {name}: bytes can be put only into a contiguous tensor"
    if tensor.grad_fn is not None:
        yield f"{name} is the result of a computation, not a leaf"


def _alias_errors(targets: Sequence[Seat], beside: Sequence[tuple[str, torch.Tensor]]) -> Iterator[str]:
    """Find tensors over the memory of a target: they would show unfinished bytes, and nothing would make them wait."""
    with without_gates():
        loaded: dict[int, list[tuple[int, int, str]]] = {}  # by storage: first byte, end, name
        for found in targets:
            if _has_memory(found.tensor):
                storage, first, end = _extent(found.tensor)
                loaded.setdefault(storage, []).append((first, end, found.names[0]))
        for name, tensor in beside:
            if not _has_memory(tensor):
                continue
            storage, first, end = _extent(tensor)
            for start, stop, target in loaded.get(storage, ()):
                if first < stop and start < end:
                    yield (
                        f"{name} lies over the memory of {target} without being the same tensor, so it could not wait "
                        "for its bytes; tie the two, or load with load_model"
                    )


def _has_memory(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or is_lazy(tensor) or tensor.layout != torch.strided or not tensor.numel():
        return False
    return tensor.untyped_storage().nbytes() > 0  # a sleeping tensor has none


def _extent(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Return a strided tensor's storage and the range of addresses it spans."""
    first = tensor.data_ptr()
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().data_ptr(), first, first + (last + 1) * tensor.element_size()


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
