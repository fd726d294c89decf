"""Which context streams: a chain of scopes, of the thread or task that entered them.

Part of `transformers`. A context variable, since loads are called by code that is not ours and cannot hand anything on:
docs/decisions/2026-11-27-patch-scope.md.
"""

from __future__ import annotations

import contextlib
import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from .._checkpoint import Checkpoint
    from .._lazy import LazySource
    from ..options import StreamOptions
    from ._from_url import RemoteModel

__all__ = ["Loading", "Scope", "current_scope", "scope"]


@dataclass(frozen=True, slots=True)
class Loading:
    """A model between the two methods: it holds lazy tensors.

    Attributes:
        model: The model, so that no other has its id meanwhile.
        checkpoint: What its lazy tensors are of; open.
        source: What reads for them before they are adopted; None where there are none.
        wait: Whether all has to be there when the load ends.
    """

    model: torch.nn.Module
    checkpoint: Checkpoint
    source: LazySource | None
    wait: bool


@dataclass(slots=True)
class Scope:
    """One `patch` context.

    Attributes:
        options: How to read and stage.
        outer: The scope around it.
        loading: What is being loaded in it, by the id of the model.
        closed: Whether it was left.
        remote: The model in a store that files stand for; None for files that are what they seem.
    """

    options: StreamOptions | None
    outer: Scope | None
    remote: RemoteModel | None = None
    loading: dict[int, Loading] = field(default_factory=dict)
    closed: bool = False


_SCOPE: Final[contextvars.ContextVar[Scope | None]] = contextvars.ContextVar("streamload_scope", default=None)


def current_scope() -> Scope | None:
    """Return the innermost scope of this context that was not left, or None.

    A context that was copied while a scope was entered (a task, `asyncio.to_thread`) may outlive it, and generators may
    leave scopes in another order, or in another context, than they entered them.
    """
    found = _SCOPE.get()
    while found is not None and found.closed:
        found = found.outer
    return found


@contextlib.contextmanager
def scope(options: StreamOptions | None, remote: RemoteModel | None = None) -> Iterator[Scope]:
    """Enter a scope; at its end what is still being loaded in it loses its files."""
    entered = Scope(options, current_scope(), remote)
    _SCOPE.set(entered)
    try:
        yield entered
    finally:
        entered.closed = True
        _SCOPE.set(current_scope())
        while entered.loading:
            entered.loading.popitem()[1].checkpoint.close()
