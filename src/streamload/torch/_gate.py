"""The gate: a tensor that is still arriving waits by itself, at its first real use.

Floor 4, part of `torch`. While its bytes are on the way, a parameter's class is a subclass whose `__torch_function__`
first waits for the tensor's group; the class is swapped back once the group is resident, and nothing is left. What
only asks for metadata (`shape`, `dtype`, `device`, …) does not wait. What takes a tensor without offering it to
`__torch_function__` cannot be seen here, and reads what is there: constructors (`torch.tensor(p)`, `torch.Tensor(p)`,
`p.new_tensor(p)`, sparse and nested tensors of it), `t.data = p` and `t.set_(p)`, a 0-dim tensor where torch wants a
number (`torch.full((2,), p)`), `torch.func` transforms, TorchScript functions, subclasses that switch torch functions
off, C++ extensions outside torch's dispatcher. Wait for the load before those.

On CUDA a use waits on the current stream, not on the host, unless it hands the memory on (`detach`, `data`,
`data_ptr`, storages, DLPack): that waits for the bytes themselves. A view (`w.t()`, `w[0]`) does not, so that a
forward stays queued: until the load is over, use a view on the stream that made it only. Read next: `_module_stream`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch.nn import Parameter
from torch.nn.functional import embedding

from ..errors import StreamloadError
from ._failure import raise_through_dynamo
from ._untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

_ARRIVAL = "_streamload_arrival"

_METADATA_GETTERS = (
    *("shape", "dtype", "device", "layout", "names", "ndim", "itemsize", "nbytes", "requires_grad", "retains_grad"),
    *("grad", "grad_fn", "grad_dtype", "output_nr", "name", "_version", "_base", "_backward_hooks"),
    "_post_accumulate_grad_hooks",
    *(name for name in dir(torch.Tensor) if name.startswith("is_") and not callable(getattr(torch.Tensor, name))),
)
_METADATA_SETTERS = ("requires_grad", "grad", "grad_dtype", "names", "_backward_hooks", "_post_accumulate_grad_hooks")
_METADATA_METHODS = (
    *("size", "stride", "dim", "ndimension", "numel", "nelement", "element_size", "storage_offset", "get_device"),
    *(
        "is_contiguous",
        "is_floating_point",
        "is_complex",
        "is_signed",
        "is_conj",
        "is_neg",
        "is_inference",
        "has_names",
    ),
    *("is_same_size", "_is_view", "_is_zerotensor", "__len__", "__hash__", "__dir__", "dim_order"),
    *("requires_grad_", "retain_grad", "register_hook", "register_post_accumulate_grad_hook"),
)
_METADATA_FUNCTIONS = (
    *("numel", "is_floating_point", "is_complex", "is_signed", "is_conj", "is_neg", "is_inference", "is_same_size"),
    *("result_type", "get_device"),
)
_METADATA = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in _METADATA_GETTERS if hasattr(torch.Tensor, name)]
    + [getattr(torch.Tensor, name).__set__ for name in _METADATA_SETTERS if hasattr(torch.Tensor, name)]
    + [getattr(torch.Tensor, name) for name in _METADATA_METHODS if hasattr(torch.Tensor, name)]
    + [getattr(torch, name) for name in _METADATA_FUNCTIONS if hasattr(torch, name)]
)

_HANDING_ON_METHODS = (
    *("detach", "data_ptr", "untyped_storage", "storage", "_typed_storage", "share_memory_"),
    *("__dlpack__", "numpy", "__array__"),
)
_HANDING_ON_PROPERTIES = ("data", "__cuda_array_interface__")
_HANDING_ON = frozenset(
    [getattr(torch.Tensor, name) for name in _HANDING_ON_METHODS if hasattr(torch.Tensor, name)]
    + [getattr(torch.Tensor, name).__get__ for name in _HANDING_ON_PROPERTIES]
    + [torch.detach]
)
"""What gives memory to those who need not use it on the current stream, and has no place in an ordinary forward."""


class Arriving(Protocol):
    """A load in flight, as the gate sees it."""

    def order(self, group: int) -> bool:
        """Let the current stream see a group's bytes, blocking; True when nobody need wait for it again."""
        ...

    def settle(self, group: int) -> None:
        """Block until a group's bytes are there for every stream and for the host."""
        ...

    def look_up(self, group: int, tensor: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
        """Return rows of an embedding table that has not arrived; None where the table is to be waited for."""
        ...


@dataclass(frozen=True, slots=True)
class _Arrival:
    load: Arriving
    group: int


class _Gate:
    """What a class of arriving tensors adds to the class of the tensor it stands for."""

    __slots__ = ()
    _plain: type[torch.Tensor]  # class to go back to

    def __new__(cls, *args: object, **kwargs: object) -> torch.Tensor:  # type: ignore[misc]  # code that takes type(p) to build another p means the plain class
        return cls._plain(*args, **kwargs)  # type: ignore[call-overload, no-any-return]  # as above

    @classmethod
    @untraced
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type[torch.Tensor]],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        if func in _METADATA or (func == torch.Tensor.type and len(args) == 1 and not kwargs):
            with without_gates():
                return func(*args, **kwargs)
        if func == torch.Tensor.detach and sys._getframe(1).f_code is Parameter.__new__.__code__:
            return _detach_for_parameter(cast("torch.Tensor", args[0]))
        if func is embedding and (rows := _look_up(*args, **kwargs)) is not None:
            return rows
        wait = _settled if func in _HANDING_ON else _pass
        ready = [wait(tensor) for tensor in _arriving((*args, kwargs))]
        if all(ready):
            return func(*args, **kwargs)  # every class is plain again: torch does what it always does
        return _call_ordered(func, types, args, kwargs)

    @untraced
    def __deepcopy__(self, memo: dict[int, object]) -> object:
        plain = settle(self._tensor())
        return type(plain).__deepcopy__(plain, memo)  # type: ignore[no-untyped-call]  # torch's method has no types

    @untraced
    def __reduce_ex__(self, protocol: int) -> object:  # type: ignore[override]  # a tensor's own returns more kinds of tuple
        return settle(self._tensor()).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]  # as above

    @untraced
    def __repr__(self) -> str:
        return repr(settle(self._tensor()))

    @property
    def _dynamo_static_input_type(self) -> str | None:
        """Settle before torch.compile looks at the class, so that it traces the plain one and never again.

        Dynamo reads or sets this attribute first of all on a tensor it meets (torch/_dynamo/variables/builder.py,
        `wrap_tensor` and `wrap_module`).
        """
        return getattr(_settle_for_dynamo(self._tensor()), "_dynamo_static_input_type", None)

    @_dynamo_static_input_type.setter
    def _dynamo_static_input_type(self, kind: str) -> None:
        _settle_for_dynamo(self._tensor())._dynamo_static_input_type = kind  # type: ignore[attr-defined]  # dynamo's own mark

    def _tensor(self) -> torch.Tensor:
        return cast("torch.Tensor", self)


class ArrivingParameter(_Gate, Parameter):  # type: ignore[misc]  # the gate's methods come first on purpose
    """A parameter whose bytes are on the way."""

    _plain = Parameter


class ArrivingTensor(_Gate, torch.Tensor):  # type: ignore[misc]  # the gate's methods come first on purpose
    """A buffer whose bytes are on the way."""

    _plain = torch.Tensor


def close_gate(tensor: torch.Tensor, load: Arriving, group: int) -> None:
    """Make a tensor wait for a group of a load at its first real use.

    Raises:
        TypeError: The tensor's class has a memory layout of its own, so that it cannot be exchanged for a while.
    """
    kind = type(tensor)
    if not issubclass(kind, _Gate):
        plain = {Parameter: ArrivingParameter, torch.Tensor: ArrivingTensor}
        gate = plain.get(kind) or type(f"Arriving{kind.__name__}", (_Gate, kind), {"__slots__": (), "_plain": kind})
        tensor.__dict__[_ARRIVAL] = _Arrival(load, group)
        tensor.__class__ = gate
    else:
        tensor.__dict__[_ARRIVAL] = _Arrival(load, group)


def open_gate(tensor: torch.Tensor) -> None:
    """Give a tensor its own class back and leave nothing behind; harmless on any tensor, from any thread."""
    kind = type(tensor)
    if issubclass(kind, _Gate):
        tensor.__class__ = kind._plain  # first: whoever still sees the gate finds what it needs
        tensor.__dict__.pop(_ARRIVAL, None)


def plain_kind(tensor: torch.Tensor) -> type[torch.Tensor]:
    """Return a tensor's class, or the one that its gate stands for."""
    kind = type(tensor)
    return kind._plain if issubclass(kind, _Gate) else kind


def forget_arrival(tensor: torch.Tensor) -> None:
    """Let go of what a tensor waited for, once another gate has taken this one's place."""
    tensor.__dict__.pop(_ARRIVAL, None)


def arriving_load(tensor: torch.Tensor) -> Arriving | None:
    """Return the load that a tensor waits for, or None."""
    arrival = tensor.__dict__.get(_ARRIVAL) if isinstance(tensor, _Gate) else None
    return arrival.load if isinstance(arrival, _Arrival) else None


def arriving_group(tensor: torch.Tensor, load: Arriving) -> int | None:
    """Return the group of a load that a tensor waits for; None where it waits for none of it."""
    arrival = tensor.__dict__.get(_ARRIVAL) if isinstance(tensor, _Gate) else None
    return arrival.group if isinstance(arrival, _Arrival) and arrival.load is load else None


@untraced
def settle(tensor: torch.Tensor) -> torch.Tensor:
    """Block until a tensor's bytes are there for everyone, and return it as an ordinary one."""
    arrival = tensor.__dict__.get(_ARRIVAL)
    if isinstance(arrival, _Arrival):
        arrival.load.settle(arrival.group)
    open_gate(tensor)
    return tensor


def _settle_for_dynamo(tensor: torch.Tensor) -> torch.Tensor:
    """Settle a tensor that dynamo looks at; what the load failed with reaches the caller of the compiled function."""
    try:
        return settle(tensor)
    except (StreamloadError, OSError) as error:
        raise_through_dynamo(error)


def without_gates() -> AbstractContextManager[None]:
    """Return a context in which this thread sees arriving tensors as they are, and waits for nothing."""
    return torch._C.DisableTorchFunctionSubclass()


def _arriving(value: object) -> Iterator[torch.Tensor]:
    """Yield the arriving tensors in an argument, whatever lists, tuples and dicts they are in."""
    if isinstance(value, _Gate):
        yield cast("torch.Tensor", value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _arriving(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _arriving(item)


def _look_up(
    ids: object, weight: object, padding_idx: object = None, max_norm: object = None, *_: object, **__: object
) -> torch.Tensor | None:
    """Return what `embedding` would, without the table, where nothing is to be differentiated or written to."""
    arrival = weight.__dict__.get(_ARRIVAL) if isinstance(weight, _Gate) else None
    if not isinstance(arrival, _Arrival) or type(ids) is not torch.Tensor or max_norm is not None:
        return None
    table = cast("torch.Tensor", weight)
    if torch.is_grad_enabled() and table.requires_grad:
        return None
    return arrival.load.look_up(arrival.group, table, ids)


def _pass(tensor: torch.Tensor) -> bool:
    """Wait for a tensor; True if its gate is open for good, False if only for the current stream."""
    arrival = tensor.__dict__.get(_ARRIVAL)
    if isinstance(arrival, _Arrival) and not arrival.load.order(arrival.group):
        return False
    open_gate(tensor)
    return True


def _settled(tensor: torch.Tensor) -> bool:
    """Wait for a tensor's bytes; True, as its gate is open for good."""
    settle(tensor)
    return True


def _call_ordered(
    func: Callable[..., object],
    types: Sequence[type[torch.Tensor]],
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> object:
    """Call a function on tensors that the current stream may use but whose gates stay closed for other streams."""
    plain = [kind._plain if issubclass(kind, _Gate) else kind for kind in types]
    others = tuple(
        kind
        for kind in dict.fromkeys(plain)
        if kind is not torch.Tensor and kind.__torch_function__ is not torch._C._disabled_torch_function_impl
    )
    for kind in others:
        result = kind.__torch_function__(func, others, args, kwargs)  # type: ignore[no-untyped-call]  # torch gives it no types
        if result is not NotImplemented:
            return result
    with without_gates():
        return func(*args, **kwargs)


def _detach_for_parameter(tensor: torch.Tensor) -> torch.Tensor:
    """Return what `Parameter(tensor)` would have made of the plain class, which it took this one not to be.

    It calls `detach` on classes it does not know and demands an instance of the same class back
    (torch/nn/parameter.py, `Parameter.__new__`).
    """
    settle(tensor)
    return torch.Tensor._make_subclass(type(tensor), tensor.detach(), False)
