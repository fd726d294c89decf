"""LazyTensor: a tensor that records what is done to it, and reads nothing.

Part of `_lazy`. Below autograd every operation comes to `__torch_dispatch__`. One that only makes new tensors is run on
the meta device, which gives the result's form, and written down. One that writes, or whose result is a value, is run for
real: its lazy arguments are read and computed first, once each. Views of what was computed are views of it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..torch._dtypes import torch_dtype, torch_shape
from ..torch._host import HostTensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo

__all__ = ["LazySource", "LazyTensor", "Step", "lazy_state_dict"]

_aten = torch.ops.aten


class LazySource:
    """Reads tensors of one checkpoint for those who need values early. Thread-safe.

    Attributes:
        bytes_read: Of tensors that were needed; nothing, if all goes well.
        names_read: Their names, in the order in which they were needed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._host = HostTensors(checkpoint.shards)
        self._lock = threading.Lock()
        self.bytes_read = 0
        self.names_read: list[str] = []

    def read(self, info: TensorInfo) -> torch.Tensor:
        """Return a tensor on the CPU, in memory of its own.

        Raises:
            SourceError, ChangedError, StreamClosedError: Its file cannot be read.
        """
        with self._lock:
            self.bytes_read += info.nbytes
            self.names_read.append(info.name)
            return self._host.tensor(info).clone()


@dataclass(frozen=True, slots=True)
class Step:
    """One operation that was written down.

    Attributes:
        func: The operation, an aten overload.
        args: Its arguments, lazy tensors among them.
        kwargs: The same, by name.
        result: Which of its results a tensor is; None where it has one.
    """

    func: Callable[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    result: int | None


class LazyTensor(torch.Tensor):
    """A tensor of a checkpoint, or what was made of some, none of whose bytes has been read.

    Attributes:
        form: The same on the meta device. For a view of a tensor in the file its strides and offset say which part.
        info: The tensor in the file that this is a view of, or None.
        step: How it was made; None for a tensor of the file.
        written: Whether it, or what it was made of, was written to: only its value is right.
    """

    form: torch.Tensor
    info: TensorInfo | None
    step: Step | None
    written: bool
    _source: LazySource
    _value: torch.Tensor | None

    @staticmethod
    def __new__(
        cls,
        form: torch.Tensor,
        device: torch.device,
        source: LazySource,
        info: TensorInfo | None,
        step: Step | None,
    ) -> LazyTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, form.size(), strides=form.stride(), dtype=form.dtype, device=device, requires_grad=False
        )
        tensor = cast("LazyTensor", made)
        tensor.form, tensor.info, tensor.step = form, info, step
        tensor.written, tensor._source, tensor._value = False, source, None
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        if func in _VALUES or func._schema.is_mutable:
            return _run(func, args, kwargs)
        return _record(func, args, kwargs)

    def __repr__(self) -> str:
        return f"LazyTensor({list(self.shape)}, {self.dtype}, device={str(self.device)!r})"

    def __getitem__(self, index: object) -> torch.Tensor:
        # All of it: what loaders ask safetensors' slices for. Through torch it takes 20 µs.
        return self if index is Ellipsis else super().__getitem__(index)

    def __deepcopy__(self, memo: dict[int, object]) -> torch.Tensor:
        memo[id(self)] = copied = self.detach().clone()
        return copied

    def value(self) -> torch.Tensor:
        """Return the tensor itself, read and computed if it is not yet; the same one each time."""
        if self._value is None:
            if self.step is None:
                self._value = self._source.read(cast("TensorInfo", self.info))
            else:
                found = self.step.func(*tree_map(_valued, self.step.args), **tree_map(_valued, self.step.kwargs))
                whole = found if self.step.result is None else cast("Sequence[object]", found)[self.step.result]
                self._value = cast("torch.Tensor", whole)
        return self._value

    def made_of(self) -> list[LazyTensor]:
        """Return the lazy tensors that this one was made of."""
        if self.step is None:
            return []
        return [each for each in tree_flatten((self.step.args, self.step.kwargs))[0] if isinstance(each, LazyTensor)]


_VALUES = frozenset(
    [_aten._local_scalar_dense.default, _aten.equal.default, _aten.is_nonzero.default, _aten.nonzero.default]
)
"""Operations whose result depends on values in a way that cannot be written down."""


def lazy_state_dict(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> dict[str, LazyTensor]:
    """Return a checkpoint's tensors by name, on the CPU, without reading any.

    Args:
        checkpoint: Open; has to stay so until no lazy tensor is needed.
        names: Which; None takes all.

    Raises:
        KeyError: There is no such tensor.
        TypeError: torch has no dtype for one.
    """
    source = LazySource(checkpoint)
    infos = checkpoint.values() if names is None else [checkpoint[name] for name in names]
    cpu = torch.device("cpu")
    return {
        info.name: LazyTensor(
            torch.empty(torch_shape(info), dtype=torch_dtype(info), device="meta"), cpu, source, info, None
        )
        for info in infos
    }


def _valued(value: object) -> object:
    return value.value() if isinstance(value, LazyTensor) else value


def _formed(value: object) -> object:
    if isinstance(value, LazyTensor):
        return value.form
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def _run(func: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Run an operation for real. What it writes to stays lazy on the outside, and is written to."""
    given = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, LazyTensor)]
    lazies = {id(each.value()): each for each in given}
    if func._schema.is_mutable:
        for each in given:
            _mark_written(each)
    results, spec = tree_flatten(func(*tree_map(_valued, args), **tree_map(_valued, kwargs)))
    return tree_unflatten([lazies.get(id(result), result) for result in results], spec)


def _mark_written(tensor: LazyTensor) -> None:
    """Mark a tensor and all that it may be a view of; what else was made of those looks at them."""
    ahead = [tensor]
    while ahead:
        each = ahead.pop()
        each.written = True
        ahead += [one for one in each.made_of() if not one.written]


def _record(func: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    lazies = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, LazyTensor)]
    formed = func(*tree_map(_formed, args), **tree_map(_formed, kwargs))
    results, spec = tree_flatten(formed)
    if not lazies or not all(isinstance(result, torch.Tensor) for result in results):
        return _run(func, args, kwargs)
    base, asked = lazies[0], kwargs.get("device")
    device = base.device if asked is None else torch.device(cast("torch.device", asked))
    made: list[object] = []
    for number, form in enumerate(results):
        # A view of a tensor in the file lies over the same meta memory as that.
        viewed = form.untyped_storage()._cdata == base.form.untyped_storage()._cdata
        step = Step(func, args, kwargs, number if isinstance(formed, (list, tuple)) else None)
        made.append(LazyTensor(form, device, base._source, base.info if viewed else None, step))
    return tree_unflatten(made, spec)
