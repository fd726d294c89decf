"""The gate of a streamed weight: what it is in its unit's turn, and what everybody else gets.

Floor 4, part of `torch`. A streamed tensor lies over a slot whose bytes are its own only while its unit is held, so its
class stays a subclass with `__torch_function__` for life. On a thread that holds the unit it is what it is. Anywhere
else an operation gets a copy with memory of its own, read from the checkpoint for it: `state_dict`, `deepcopy`,
pickling and arithmetic are right, and slow. What would change it, or hand out its address, is refused.

What cannot be protected: a view or a detached alias that is taken inside the turn and used after it; and what takes
tensors past `__torch_function__`, as `_gate` lists. Read next: `_stand_ins`, which opens and closes.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar, cast

import torch
from torch.nn import Parameter, functional

from ._gate import _METADATA, forget_arrival, without_gates
from ._gate import plain_kind as arriving_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_STREAMED = "_streamload_streamed"

_ADDRESSES = frozenset(
    [
        *(getattr(torch.Tensor, name) for name in ("data_ptr", "share_memory_", "resize_")),
        torch.Tensor.data.__set__,  # type: ignore[attr-defined]  # a getset descriptor, which stubs show as its value
    ]
)
"""What hands out a tensor's address, or gives it another: there is no copy that could stand in."""

_WRITING = frozenset(
    ["__setitem__", "__delitem__"]
    + [f"__i{name}__" for name in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")]
    + ["__ilshift__", "__irshift__"]
)
"""Names of what writes to its first argument, beside all that end in one underscore."""

_CONVERSIONS = frozenset(
    getattr(torch.Tensor, name)
    for name in ("to", "cpu", "cuda", "type", "float", "double", "half", "bfloat16", "contiguous")
)
"""What returns the tensor itself where there is nothing to convert."""

_FORWARD = frozenset(
    getattr(room, name)
    for room, names in (
        (functional, "linear bilinear rms_norm layer_norm group_norm prelu conv1d conv2d conv3d"),
        (torch, "matmul mm bmm addmm baddbmm add mul rms_norm layer_norm group_norm conv1d conv2d conv3d"),
        (torch.Tensor, "matmul __matmul__ __mul__ __rmul__ __add__ __radd__"),
    )
    for name in names.split()
)
"""What forwards do with weights most. It writes to none and returns new memory: holding them is all that it takes."""

_PLAIN = frozenset((Parameter, torch.Tensor))

T = TypeVar("T")


class Streaming(Protocol):
    """The streamed part of a module, as the gate sees it."""

    def holds(self, unit: int) -> bool:
        """Whether the calling thread holds the unit."""
        ...

    def copy_of(self, unit: int, member: int) -> torch.Tensor:
        """Read one tensor of a unit into memory of its own, blocking."""
        ...


@dataclass(frozen=True, slots=True)
class _Streamed:
    streaming: Streaming
    unit: int
    member: int


def _refuse(name: str) -> NoReturn:
    raise RuntimeError(
        f"{name} on a weight that is streamed: it is read-only, and its memory holds its bytes only inside its "
        "module's forward; work on a copy (`weight.clone()`), or load the module whole"
    )


def _refuse_set(tensor: torch.Tensor, *args: object) -> NoReturn:
    """Refuse `set_`, for which `__torch_function__` is not asked."""
    del tensor, args
    _refuse("set_")


class StreamedGate:
    """What a class of streamed tensors adds to the class of the tensor it stands for."""

    __slots__ = ()
    _plain: type[torch.Tensor]

    def __new__(cls, *args: object, **kwargs: object) -> torch.Tensor:  # type: ignore[misc]  # code that takes type(p) to build another p means the plain class
        return cls._plain(*args, **kwargs)  # type: ignore[call-overload, no-any-return]  # as above

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: Sequence[type[torch.Tensor]],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        if func in _FORWARD and _asks_only_us(types) and _holds_each(args, kwargs):
            with without_gates():
                return func(*args, **kwargs)
        if func in _METADATA or (func == torch.Tensor.type and len(args) == 1 and not kwargs):
            with without_gates():
                return func(*args, **kwargs)
        if func == torch.Tensor.data.__set__ and args[0] is args[1]:  # type: ignore[attr-defined]  # see _ADDRESSES
            return None  # what `Module.to` does where there was nothing to convert
        if func == torch.Tensor.detach and sys._getframe(1).f_code is Parameter.__new__.__code__:
            return _detach_for_parameter(cast("torch.Tensor", args[0]))
        inside = _all_held(args) and (not kwargs or _all_held(kwargs.values()))
        _refuse_writing(func, args, kwargs, inside=inside)
        if inside and _asks_only_us(types):
            with without_gates():
                return func(*args, **kwargs)
        if func in _CONVERSIONS and (same := _unconverted(func, args, kwargs)) is not None:
            return same
        stand_in = _alias if inside else _copy
        replaced: list[torch.Tensor] = []
        given, named = _replaced(args, stand_in, replaced), _replaced(kwargs, stand_in, replaced)
        versions = [] if inside else [one._version for one in replaced]
        result = func(*given, **named)
        if any([one._version != version for one, version in zip(replaced, versions, strict=False)]):
            _refuse(getattr(func, "__name__", "writing"))
        return result

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        made = memo[id(self)] = _copy(self._tensor(), memo)
        return made

    def __reduce_ex__(self, protocol: int) -> object:  # type: ignore[override]  # a tensor's own returns more kinds of tuple
        return _copy(self._tensor()).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]  # torch's method has no types

    def __repr__(self) -> str:
        return repr(_copy(self._tensor()))

    def _tensor(self) -> torch.Tensor:
        return cast("torch.Tensor", self)


class StreamedParameter(StreamedGate, Parameter):  # type: ignore[misc]  # the gate's methods come first on purpose
    """A parameter whose bytes are there only while its unit is held."""

    _plain = Parameter
    set_ = _refuse_set  # type: ignore[assignment]  # it never returns


class StreamedTensor(StreamedGate, torch.Tensor):  # type: ignore[misc]  # the gate's methods come first on purpose
    """A buffer whose bytes are there only while its unit is held."""

    _plain = torch.Tensor
    set_ = _refuse_set  # type: ignore[assignment]  # it never returns


def put_behind_gate(tensor: torch.Tensor, streaming: Streaming, unit: int, member: int) -> None:
    """Make a tensor over a slot one that only its unit's turn opens.

    Raises:
        TypeError: The tensor's class has a memory layout of its own.
    """
    kind = arriving_kind(tensor)
    plain = {Parameter: StreamedParameter, torch.Tensor: StreamedTensor}
    names = {"__slots__": (), "_plain": kind, "set_": _refuse_set}
    gate = plain.get(kind) or type(f"Streamed{kind.__name__}", (StreamedGate, kind), names)
    tensor.__dict__[_STREAMED] = _Streamed(streaming, unit, member)
    tensor.__class__ = gate
    forget_arrival(tensor)


def plain_kind(tensor: torch.Tensor) -> type[torch.Tensor]:
    """Return a tensor's class, or the one that its gate stands for."""
    kind = type(tensor)
    return kind._plain if issubclass(kind, StreamedGate) else kind


def streaming_of(tensor: torch.Tensor) -> Streaming | None:
    """Return what streams a tensor, or None."""
    streamed = tensor.__dict__.get(_STREAMED) if isinstance(tensor, StreamedGate) else None
    return streamed.streaming if isinstance(streamed, _Streamed) else None


def lift_gate(tensor: torch.Tensor) -> None:
    """Give a tensor its own class back; its bytes are what its memory holds."""
    if isinstance(tensor, StreamedGate):
        kind: type[torch.Tensor] = plain_kind(tensor)
        tensor.__class__ = kind  # type: ignore[assignment]  # mypy knows it as both at once
        tensor.__dict__.pop(_STREAMED, None)


def own_attributes(tensor: torch.Tensor) -> dict[str, object]:
    """Return what others have set on a tensor."""
    return {name: value for name, value in tensor.__dict__.items() if name != _STREAMED}


def _streamed_in(value: object) -> Iterator[torch.Tensor]:
    """Yield the streamed tensors in an argument, whatever lists, tuples and dicts they are in."""
    if isinstance(value, StreamedGate):
        yield cast("torch.Tensor", value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _streamed_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _streamed_in(item)


def _replaced(value: T, stand_in: Callable[[torch.Tensor], torch.Tensor], made: list[torch.Tensor]) -> T:
    """Return an argument with other tensors for the streamed ones in it, which are added to `made`."""
    if isinstance(value, StreamedGate):
        made.append(stand_in(cast("torch.Tensor", value)))
        return cast("T", made[-1])
    if isinstance(value, dict):
        return cast("T", {key: _replaced(item, stand_in, made) for key, item in value.items()})
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_replaced(item, stand_in, made) for item in value]
        return cast("T", type(value)(*items) if hasattr(value, "_fields") else type(value)(items))
    return value


def _asks_only_us(types: Sequence[type[torch.Tensor]]) -> bool:
    """Whether no other class has a say, neither beside a gate nor behind one."""
    return all([kind is torch.Tensor or getattr(kind, "_plain", None) in _PLAIN for kind in types])


def _holds_each(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    """Whether a function of `_FORWARD`, whose tensors are in no lists, gets what this thread holds, and no `out`."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, StreamedGate) and not _is_held(cast("torch.Tensor", value)):
            return False
    return "out" not in kwargs


def _all_held(values: Iterable[object]) -> bool:
    for value in values:  # plain loops: this runs at every operation of a turn
        if isinstance(value, StreamedGate):
            if not _is_held(cast("torch.Tensor", value)):
                return False
        elif isinstance(value, (list, tuple, dict, set, frozenset)) and not all(map(_is_held, _streamed_in(value))):
            return False
    return True


def _is_held(tensor: torch.Tensor) -> bool:
    streamed = tensor.__dict__.get(_STREAMED)
    if streamed is None:  # a new parameter, see `_detach_for_parameter`
        lift_gate(tensor)
        return True
    return streamed.streaming.holds(streamed.unit)  # type: ignore[no-any-return]  # only this module writes there


def _refuse_writing(
    func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], *, inside: bool
) -> None:
    """Refuse what would write to a streamed tensor: it would be lost with the next copy into its slot."""
    name = getattr(func, "__name__", "")
    written = [kwargs["out"]] if "out" in kwargs else []
    if (name.endswith("_") and not name.endswith("__")) or name in _WRITING or (func in _ADDRESSES and not inside):
        written += args[:1] or list(kwargs.values())[:1]
    if written and any(True for _ in _streamed_in(written)):
        _refuse(name)


def _unconverted(
    func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> torch.Tensor | None:
    """Return the tensor that a conversion is asked of, where there is nothing to convert."""
    tensor = args[0]
    if not isinstance(tensor, StreamedGate):
        return None
    with without_gates():
        like = cast("torch.Tensor", tensor)
        probe = torch.empty(0, dtype=like.dtype, device=like.device)
        return like if func(probe, *args[1:], **kwargs) is probe else None


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same memory as a tensor without a gate, for the thread that holds it."""
    with without_gates():
        return torch.Tensor._make_subclass(plain_kind(tensor), tensor, tensor.requires_grad)


def _copy(tensor: torch.Tensor, memo: dict[int, object] | None = None) -> torch.Tensor:
    """Return a streamed tensor's values as an ordinary tensor with memory of its own."""
    streamed = tensor.__dict__.get(_STREAMED)
    with torch.inference_mode(False), without_gates():  # as the weights of a model that was loaded whole
        made = streamed.streaming.copy_of(streamed.unit, streamed.member) if isinstance(streamed, _Streamed) else tensor
        ordinary = torch.Tensor._make_subclass(plain_kind(tensor), made, tensor.requires_grad)
    ordinary.__dict__.update(copy.deepcopy(own_attributes(tensor), {} if memo is None else memo))
    return ordinary


def _detach_for_parameter(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of the class that `Parameter(tensor)` demands back; it becomes plain at its first use.

    It calls `detach` on classes it does not know and checks what it gets (torch/nn/parameter.py, `Parameter.__new__`).
    """
    with without_gates():
        return torch.Tensor._make_subclass(type(tensor), _copy(tensor).detach(), False)
