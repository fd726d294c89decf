"""LazyTensor: a tensor that records what is done to it, and reads nothing.

Part of `_lazy`. Below autograd every operation comes to `__torch_dispatch__`. One that only makes new tensors of lazy
ones is run on the meta device, which gives the result's form, and written down. One that writes, draws random numbers,
takes ordinary tensors too, or whose result depends on values, is run at once: what it takes is read and computed then.

Tensors that are views of each other share a `_Memory`. The first write gives it bytes; from then on each of them is a
view of those, and what was written down before still stands for what was there before.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from ..torch._dtypes import torch_dtype, torch_shape
from ._address import Address
from ._forms import joined_form
from ._node import LazySource, Node, Step, change, flat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch._ops import OpOverload

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo

    Operation = OpOverload[..., Any]

__all__ = ["LazyTensor", "lazy_state_dict"]

_aten = torch.ops.aten


class _Memory:
    """What tensors that are views of each other have in common: bytes, once somebody writes. Thread-safe."""

    __slots__ = ("_lock", "_root", "bytes")

    def __init__(self, root: Node) -> None:
        self._root = root
        self._lock = threading.Lock()  # guards bytes
        self.bytes: torch.Tensor | None = None

    def view(self, node: Node) -> torch.Tensor:
        """Return what a node is of the memory, which has bytes from now on."""
        with self._lock:
            if self.bytes is None:
                self.bytes = self._root.own_value()
        chain = []
        while node is not self._root:
            chain.append(node)
            node = cast("Node", node.base)
        found = self.bytes
        with torch.no_grad():
            for each in reversed(chain):
                found = each.replay({cast("Node", each.base): found})
        return found


class LazyTensor(torch.Tensor):
    """A tensor of a checkpoint, or what was made of some, none of whose bytes has been read.

    Attributes:
        node: What it is, as long as nobody has written to it.
    """

    node: Node
    _memory: _Memory
    _value: torch.Tensor | None
    own_attributes: ClassVar[frozenset[str]] = frozenset(("node", "_memory", "_value", "_is_param"))
    """Of its `__dict__`: what it has as a lazy tensor, not by whoever set it."""

    @staticmethod
    def __new__(cls: type[LazyTensor], node: Node, memory: _Memory | None = None) -> LazyTensor:
        form = node.form
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, form.size(), strides=form.stride(), dtype=form.dtype, device=node.device, requires_grad=False
        )
        tensor.node, tensor._value = node, None
        tensor._memory = _Memory(node) if memory is None else memory
        return tensor

    def __init__(self, node: Node, memory: _Memory | None = None) -> None:
        """Made by `__new__`."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch says nothing of it but that it is disabled
        cls, func: Operation, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        return _dispatch(func, args, {} if kwargs is None else kwargs)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Give memory to what goes past the dispatcher to it; all else takes its way."""
        if not all(issubclass(cls, kind) for kind in types):
            return NotImplemented  # a tensor that waits for its own bytes: it lets the others go on
        if func == torch.Tensor.data_ptr and isinstance(args[0], LazyTensor) and not args[0].written:
            return Address(args[0])
        if func in PAST_DISPATCH and isinstance(args[0], LazyTensor):
            return func(args[0].memory(), *args[1:], **(kwargs or {}))
        if func == SET_DATA and isinstance(args[0], LazyTensor):
            args[0]._take_over(args[1])
            return None
        with torch._C.DisableTorchFunctionSubclass():  # and not as torch does, which makes every result a lazy one
            return func(*args, **(kwargs or {}))

    def __repr__(self) -> str:  # type: ignore[override]  # torch's has an argument for itself
        return f"LazyTensor({list(self.shape)}, {self.dtype}, device={str(self.device)!r})"

    def __getitem__(self, index: Any) -> torch.Tensor:  # noqa: ANN401 - torch's
        # All of it: what loaders ask safetensors' slices for. Through torch it takes 20 µs.
        return self if index is Ellipsis else super().__getitem__(index)

    def __deepcopy__(self, memo: dict[int, object]) -> torch.Tensor:
        if (known := memo.get(id(self))) is not None:
            return cast("torch.Tensor", known)
        with torch.no_grad():
            copied = self.dressed(self.detach().clone())
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:  # noqa: ANN401 - torch's
        return self.dressed(self.value()).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]  # torch's

    @property
    def form(self) -> torch.Tensor:
        """The same on the meta device."""
        return self.node.form

    @property
    def info(self) -> TensorInfo | None:
        """The tensor in the file that this is a view of, or None."""
        return self.node.info

    @property
    def written(self) -> bool:
        """Whether it, or what it is a view of, was written to: only its value is right."""
        return self._memory.bytes is not None

    @property
    def _source(self) -> LazySource:
        return self.node.source

    def value(self) -> torch.Tensor:
        """Return the tensor itself, read and computed if it is not yet; the same one each time.

        Only for those who are the last to use it: what is written to it other lazy tensors may see, or not.

        Raises:
            ShortReadError, SourceError, ChangedError, StreamClosedError: As `LazySource.read`.
        """
        return self.memory() if self.written else self.node.value()

    def memory(self) -> torch.Tensor:
        """Return the tensor over memory that is its own from now on: what is written there, it and its views show.

        Raises:
            As `value`.
        """
        found = self._value
        if found is None:
            found = self._value = self._memory.view(self.node)
        return found

    def dressed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return another tensor as what this one is: a parameter or not, with what was set on it."""
        if isinstance(self, torch.nn.Parameter):
            made: torch.Tensor = torch.nn.Parameter(tensor, self.requires_grad)
        else:
            made = tensor.detach().requires_grad_(self.requires_grad)
        made.__dict__.update({name: held for name, held in self.__dict__.items() if name not in self.own_attributes})
        return made

    def _take_over(self, other: torch.Tensor) -> None:
        """Set `data`: become another lazy tensor, in its memory; or an ordinary one, by its bytes."""
        if not isinstance(other, LazyTensor):
            if other.is_meta or tuple(other.shape) != tuple(self.shape) or other.dtype != self.dtype:
                raise RuntimeError(
                    f"a lazy tensor of {list(self.shape)}, {self.dtype} cannot become one of {list(other.shape)}, "
                    f"{other.dtype} on {other.device}; set the module's attribute to a new one"
                )
            made = LazyTensor(Node(torch.empty_like(other, device="meta"), other.device, self.node.source))
            made._memory.bytes = other.detach()
            other = made
        with torch._C.DisableTorchFunctionSubclass():
            SET_DATA(self, other)
        self.node, self._memory, self._value = other.node, other._memory, None


SET_DATA = cast("Any", torch.Tensor.data).__set__

PAST_DISPATCH = frozenset(
    [
        torch.Tensor.numpy,
        torch.Tensor.__array__,
        torch.Tensor.tolist,
        torch.Tensor.data_ptr,
        torch.Tensor.untyped_storage,
        torch.Tensor.storage,
        torch.Tensor.share_memory_,
        torch.Tensor.is_shared,
        torch.Tensor.__dlpack__,
    ]
)
"""What looks at memory rather than run an operation."""

_FACTORIES = frozenset(
    [
        *(getattr(_aten, f"{name}_like").default for name in ("empty", "zeros", "ones", "full", "rand", "randn")),
        _aten.randint_like.default,
        _aten.randint_like.low_dtype,
        *(getattr(_aten, f"new_{name}").default for name in ("empty", "zeros", "ones", "full", "empty_strided")),
    ]
)
"""Operations whose result has the argument's form, and none of its bytes: ordinary tensors, without reading."""

_SAME = frozenset([_aten.detach.default, _aten.alias.default])
"""Operations whose result is the argument once more."""

_NOW = frozenset([torch.Tag.data_dependent_output, torch.Tag.nondeterministic_seeded])
"""Tags of operations that have to be run when they are called."""

_CPU = torch.device("cpu")

_COPY = _aten.copy_.default


def lazy_state_dict(
    checkpoint: Checkpoint, names: Iterable[str] | None = None, *, source: LazySource | None = None
) -> dict[str, LazyTensor]:
    """Return a checkpoint's tensors by name, on the CPU, without reading any.

    Args:
        checkpoint: Open; has to stay so until no lazy tensor is needed.
        names: Which; None takes all.
        source: Who reads; None: one that reads whole tensors.

    Raises:
        KeyError: There is no such tensor.
        TypeError: torch has no dtype for one.
    """
    source = LazySource(checkpoint) if source is None else source
    infos = checkpoint.values() if names is None else [checkpoint[name] for name in names]
    return {
        info.name: LazyTensor(
            Node(torch.empty(torch_shape(info), dtype=torch_dtype(info), device="meta"), _CPU, source, info=info)
        )
        for info in infos
    }


def _dispatch(func: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    given = [each for each in flat((*args, *kwargs.values())) if isinstance(each, torch.Tensor)]
    lazies = [each for each in given if isinstance(each, LazyTensor)]
    if func in _FACTORIES:
        device = kwargs.get("device") or lazies[0].device
        return func(*change(_formed, args), **{**kwargs, "device": device})
    if func is _COPY and _lands(*args[:2]):
        return args[0]
    if func._schema.is_mutable or len(lazies) < len(given) or not _NOW.isdisjoint(func.tags):
        return _run(func, args, kwargs)
    if any(each.written for each in lazies):
        if func in _SAME:  # a parameter of it, for one, has to be lazy, too
            return LazyTensor(lazies[0].node, lazies[0]._memory)
        return _run(func, args, kwargs)
    return _record(func, args, kwargs, lazies)


def _lands(to: object, given: object) -> bool:
    """Copy a lazy tensor into an ordinary one without computing it, if that can be."""
    if isinstance(to, LazyTensor) or not isinstance(given, LazyTensor) or given.written:
        return False
    tensor = cast("torch.Tensor", to)
    if tensor.is_meta:
        tensor.copy_(given.form)
        return True
    return given.node.source.copy_into(given.node, tensor)


def _formed(value: object) -> object:
    if isinstance(value, LazyTensor):
        return value.form
    return torch.device("meta") if isinstance(value, torch.device) else value


def _run(func: Operation, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Run an operation. What it writes to stays lazy on the outside, and has memory of its own from then on."""
    if torch.Tag.inplace_view in func.tags and isinstance(args[0], LazyTensor):
        raise RuntimeError(f"{func} changes the form of a tensor in place, which a lazy one cannot follow")
    lazies: dict[int, LazyTensor] = {}
    # A result that is a view of memory may be written to as well.
    sees = func._schema.is_mutable or any(each.alias_info is not None for each in func._schema.returns)
    seen = {each.name for each in func._schema.arguments if each.alias_info is not None} if sees else set()

    def value_of(name: str, each: object) -> object:
        if not isinstance(each, LazyTensor):
            return each
        found = each.memory() if name in seen else each.value()
        lazies[id(found)] = each
        return found

    named = list(_named(func, args))
    real = [change(partial(value_of, name), value) for name, value in named]
    options = {name: change(partial(value_of, name), value) for name, value in kwargs.items()}
    return change(lambda result: lazies.get(id(result), result), func(*real, **options))


def _named(func: Operation, args: tuple[object, ...]) -> Iterator[tuple[str, object]]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        yield argument.name, value


def _record(func: Operation, args: tuple[object, ...], kwargs: dict[str, object], lazies: list[LazyTensor]) -> object:
    """Write an operation down."""
    asked = kwargs.get("device")
    device = lazies[0].device if asked is None else torch.device(cast("torch.device", asked))
    try:
        formed = None if kwargs else joined_form(func, [each.node.form for each in lazies], args[1:])
        if formed is None:
            formed = func(*change(_formed, args), **change(_formed, kwargs))
    except NotImplementedError:
        return _run(func, args, kwargs)
    except RuntimeError:
        if any(each.alias_info is not None for each in func._schema.returns):
            raise  # no such view
        return _run(func, args, kwargs)  # the meta device cannot, or nobody can: the real one knows
    several = isinstance(formed, (list, tuple))
    results = list(formed) if several else [formed]
    if device.type == "meta" or not any(isinstance(result, torch.Tensor) for result in flat(results)):
        return formed  # nothing of it depends on bytes
    if not all(isinstance(result, torch.Tensor) and not _is_flagged(result) for result in results):
        return _run(func, args, kwargs)
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    given, options = change(_noted, args), change(_noted, kwargs)
    # What joins many makes new memory; looking for it in each of them would take as long as all the rest.
    viewed = lazies if any(each.alias_info is not None for each in func._schema.returns) else lazies[:1]
    made: list[object] = []
    for number, form in enumerate(results):
        step = Step(func, given, options, number if several else None)
        # A view lies over the same meta memory.
        storage = form.untyped_storage()._cdata
        base = next((each for each in viewed if each.form.untyped_storage()._cdata == storage), None)
        node = Node(
            form,
            device,
            lazies[0].node.source,
            info=None if base is None else base.info,
            step=step,
            base=None if base is None else base.node,
        )
        made.append(LazyTensor(node, None if base is None else base._memory))
    return type(formed)(made) if several else made[0]


def _noted(value: object) -> object:
    return value.node if isinstance(value, LazyTensor) else value


def _is_flagged(form: torch.Tensor) -> bool:
    """Whether its elements are not what its bytes say: a flag for that exists in real tensors only."""
    return bool(form.is_conj() or form.is_neg())
