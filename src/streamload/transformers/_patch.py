"""Stand between transformers and the files, within one context.

Part of `transformers`. Two methods of `PreTrainedModel` are replaced while the context lasts: the one that is given the
files gets lazy tensors in their place, and after the one that ends a load the model's lazy tensors are adopted. Other
threads see the methods, which do for them what they always did. Read next: `_obstacles`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Final, cast

from .._checkpoint import open_files
from .._collector import collector_paused
from .._lazy import lazy_state_dict
from ._adopt import adopt
from ._from_url import refuse_stock
from ._methods import HAS_ADAPTER, find_finalize, replaced
from ._obstacles import find_obstacle, is_quantized
from ._scope import Loading, scope
from ._stream import PretrainedStream

if TYPE_CHECKING:
    import inspect
    from collections.abc import Iterator, Sequence

    import torch

    from .._checkpoint import Checkpoint
    from .._lazy import LazyTensor
    from ..options import StreamOptions
    from ._from_url import RemoteModel
    from ._methods import Stock
    from ._scope import Scope

__all__ = ["HANDLE", "patch"]

_log = logging.getLogger(__name__)

HANDLE: Final = "streamload"
"""The attribute of a model that watches its load."""

_FAILURES: Final = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, OSError)
"""What a load fails with, streamed or not: then transformers has another try without us, or the last word."""


@contextlib.contextmanager
def patch(*, options: StreamOptions | None = None) -> Iterator[None]:
    """Stream what transformers' `from_pretrained` loads in this context, whoever calls it.

    For calls that are not one's own: `pipeline()`, `SentenceTransformer`, other people's code. A model comes out at
    once and computes while it is filled; `model.streamload` watches it. What cannot be streamed is loaded as always,
    with one warning. Contexts may be nested, and entered by several threads and tasks; other threads see stock
    transformers. Names are what transformers takes: the URL of a store is for `streamload.from_pretrained` and the
    classes of `streamload.transformers`.

    Args:
        options: How to read and stage.

    Raises:
        ModuleNotFoundError: transformers is not installed.

    Example:
        >>> with streamload.transformers.patch():
        ...     generator = transformers.pipeline("text-generation", "path/to/model", device_map="cuda")
    """
    with patch_for(options, None):
        yield


@contextlib.contextmanager
def patch_for(options: StreamOptions | None, remote: RemoteModel | None) -> Iterator[None]:
    """Do what `patch` does, where files may stand for a model in a store."""
    from transformers import PreTrainedModel

    with replaced(PreTrainedModel, _load, _finalize), scope(options, remote):
        yield


def _load(scope: Scope, stock: Stock, given: inspect.BoundArguments) -> object:
    """Stand in for the method that is given the files."""
    model = cast("torch.nn.Module", given.arguments["model"])
    if HANDLE in vars(model) or id(model) in scope.loading or getattr(model, HAS_ADAPTER, False):
        return stock(*given.args, **given.kwargs)  # an adapter for a model that is there, or a wrapper around this
    reason = find_obstacle(given.arguments)
    if reason is None:
        try:
            checkpoint, lazies = _open(cast("Sequence[str]", given.arguments["checkpoint_files"]), scope.remote)
        except _FAILURES as error:
            reason = f"{type(error).__name__}: {error}"
            return _as_stock(scope, reason, stock, given)  # its own error then has ours as its context
        return _planned(scope, stock, given, checkpoint, lazies)
    return _as_stock(scope, reason, stock, given)


def _open(files: Sequence[str], remote: RemoteModel | None) -> tuple[Checkpoint, dict[str, LazyTensor]]:
    with collector_paused():
        instead = None if remote is None else remote.open_instead(files)
        checkpoint = open_files(files) if instead is None else instead
        try:
            return checkpoint, lazy_state_dict(checkpoint)
        except BaseException:
            checkpoint.close()
            raise


def _as_stock(scope: Scope, reason: str, stock: Stock, given: inspect.BoundArguments) -> object:
    """Let transformers load, with one warning; where files only stand for weights, refuse."""
    model = given.arguments["model"]
    if scope.remote is not None:
        refuse_stock(scope.remote, reason)
    _log.warning("%s is not streamed but loaded by transformers: %s", type(model).__name__, reason)
    done = stock(*given.args, **given.kwargs)
    setattr(model, HANDLE, PretrainedStream(None, reason=reason))
    return done


def _planned(
    scope: Scope,
    stock: Stock,
    given: inspect.BoundArguments,
    checkpoint: Checkpoint,
    lazies: dict[str, LazyTensor],
) -> object:
    """Have transformers load lazy tensors, and adopt them now or after the method that ends the load."""
    model = given.arguments["model"]
    source = next((lazy._source for lazy in lazies.values()), None)
    loading = Loading(model, checkpoint, source, wait=is_quantized(given.arguments))
    plain = given.arguments.get("state_dict")
    given.arguments["state_dict"] = lazies
    scope.loading[id(model)] = loading
    try:
        with collector_paused():  # it would look through all lazy tensors again and again
            done = stock(*given.args, **given.kwargs)
        failure = _conversion_errors(done)
    except _FAILURES as error:
        failure = f"{type(error).__name__}: {error}"
        done = None
    except BaseException:
        _forget(scope, loading)
        raise
    if failure is not None:
        _forget(scope, loading)
        given.arguments["state_dict"] = plain
        return _as_stock(scope, failure, stock, given)
    if _ends_with_load():
        _adopt(scope, loading)
    return done


def _conversion_errors(done: object) -> str | None:
    """Return what transformers could not make of the tensors; it reports that only when the load ends."""
    for part in done if isinstance(done, tuple) else (done,):
        for text in dict(getattr(part, "conversion_errors", None) or {}).values():
            return str(text)
    return None


def _ends_with_load() -> bool:
    from transformers import PreTrainedModel

    return find_finalize(PreTrainedModel) is None


def _finalize(scope: Scope, stock: Stock, given: inspect.BoundArguments) -> object:
    """Stand in for the method that ends a load."""
    loading = scope.loading.get(id(given.arguments["model"]))
    if loading is None:
        return stock(*given.args, **given.kwargs)
    try:
        done = stock(*given.args, **given.kwargs)
    except BaseException:
        _forget(scope, loading)
        raise
    if scope.loading.get(id(loading.model)) is loading:  # else another of it, which this wraps, has done so
        _adopt(scope, loading)
    return done


def _adopt(scope: Scope, loading: Loading) -> None:
    """Make a model's lazy tensors real ones that arrive."""
    try:
        with collector_paused():
            handle = adopt(loading.model, loading.checkpoint, scope.options)
        if loading.source is not None:
            handle.read_early = tuple(loading.source.names_read)
    finally:
        _forget(scope, loading)
    setattr(loading.model, HANDLE, handle)
    sys.audit("streamload.coldstart.load", handle, "model", loading.model)
    if loading.wait:
        handle.wait()


def _forget(scope: Scope, loading: Loading) -> None:
    scope.loading.pop(id(loading.model), None)
    loading.checkpoint.close()
