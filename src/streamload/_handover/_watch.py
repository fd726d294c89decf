"""See who looks at memory whose bytes were put off, and have them read before.

Part of `_handover`. Every operation of the thread passes here: those that only make views go on, copies of lazy tensors
are what is put off, and before any other that takes or writes such memory all that was put off is done.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .._lazy import LazyTensor
from .._lazy._node import flat
from .._lazy._tensor import PAST_DISPATCH, SET_DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch._ops import OpOverload

    from ..torch._deferred import DeferredFill

__all__ = ["Watched", "watching"]

_COPY = torch.ops.aten.copy_.default


class Watched(Protocol):
    """What has put copies off."""

    def settle_for(self, tensors: Sequence[torch.Tensor], *, but: DeferredFill | None = None) -> None:
        """Do what was put off if it goes to the memory of one of the tensors; `but` keeps its own."""


@contextmanager
def watching(watched: Watched) -> Iterator[None]:
    """Watch the calling thread until the end of the block."""
    with _Operations(watched), _Looks(watched):
        yield


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not say what its classes do
    """Sees what goes through the dispatcher."""

    def __init__(self, watched: Watched) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = watched
        self._views: dict[object, bool] = {}  # whether an operation only makes views; there are few

    def __torch_dispatch__(
        self,
        func: OpOverload[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        options = {} if kwargs is None else kwargs
        only_views = self._views.get(func)
        if only_views is None:
            only_views = self._views[func] = _makes_views(func)
        if not only_views:
            given = args[1] if func is _COPY else None
            but = given.node.source.into if isinstance(given, LazyTensor) else None
            self._watched.settle_for(_ordinary((*args, *options.values())), but=but)
        return func(*args, **options)


class _Looks(TorchFunctionMode):
    """Sees what looks at memory rather than run an operation."""

    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self._watched = watched

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func in PAST_DISPATCH:
            self._watched.settle_for(_ordinary(args))
        elif func == SET_DATA and isinstance(args[1], LazyTensor) and not isinstance(args[0], LazyTensor):
            args = (args[0], args[1].memory())  # a parameter that is to have the bytes has them now
        return func(*args, **(kwargs or {}))


def _makes_views(func: OpOverload[..., Any]) -> bool:
    schema = func._schema
    return not schema.is_mutable and any(each.alias_info is not None for each in schema.returns)


def _ordinary(values: Iterable[object]) -> list[torch.Tensor]:
    return [each for each in flat(values) if isinstance(each, torch.Tensor) and not isinstance(each, LazyTensor)]
