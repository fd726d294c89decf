"""Stand between transformers and the files, within one context.

Part of `transformers`. Two methods of `PreTrainedModel` are replaced while the context lasts: the one that is given the
files gets lazy tensors in their place, and after the one that ends a load the model's lazy tensors are adopted. Other
threads see the methods, which do for them what they always did.
"""

from __future__ import annotations

import contextlib
import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._checkpoint import open_files
from .._lazy import lazy_state_dict
from ._adopt import adopt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._checkpoint import Checkpoint
    from ..options import StreamOptions

__all__ = ["patch"]


@dataclass(slots=True)
class _Scope:
    options: StreamOptions | None
    loading: dict[int, Checkpoint] = field(default_factory=dict)  # by the id of the model
    source: Any = None


_scope: contextvars.ContextVar[_Scope | None] = contextvars.ContextVar("streamload_scope", default=None)


@contextlib.contextmanager
def patch(*, options: StreamOptions | None = None) -> Iterator[None]:
    """Stream what `from_pretrained` loads in this context, whoever calls it."""
    from transformers import PreTrainedModel

    load, finalize = (PreTrainedModel.__dict__[name] for name in ("_load_pretrained_model", "_finalize_model_loading"))

    def load_lazily(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        scope = _scope.get()
        if scope is not None and state_dict is None and _are_safetensors(checkpoint_files):
            checkpoint = open_files(checkpoint_files)
            scope.loading[id(model)] = checkpoint
            state_dict = lazy_state_dict(checkpoint)
            scope.source = next(iter(state_dict.values()))._source if state_dict else None
        return load.__func__(model, state_dict, checkpoint_files, *args, **kwargs)

    def finalize_and_adopt(model: Any, *args: Any, **kwargs: Any) -> Any:
        done = finalize.__func__(model, *args, **kwargs)
        scope = _scope.get()
        if scope is not None and (checkpoint := scope.loading.pop(id(model), None)) is not None:
            with checkpoint:
                model.streamload = adopt(model, checkpoint, scope.options)
                model.streamload.read_early = tuple(scope.source.names_read)
        return done

    PreTrainedModel._load_pretrained_model = staticmethod(load_lazily)
    PreTrainedModel._finalize_model_loading = staticmethod(finalize_and_adopt)
    token = _scope.set(_Scope(options))
    try:
        yield
    finally:
        _scope.reset(token)
        PreTrainedModel._load_pretrained_model = load
        PreTrainedModel._finalize_model_loading = finalize


def _are_safetensors(files: Any) -> bool:
    return bool(files) and all(str(file).endswith(".safetensors") for file in files)
