"""Stand between diffusers and the files, within one context.

Part of `diffusers`. `ModelMixin.from_pretrained` reads a single file by `load_state_dict`, several inside
`_load_pretrained_model`. The first is given lazy tensors, and the second, too; when it is done they are adopted. Other
threads see the functions, which do for them what they always did.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from .._checkpoint import open_files
from .._lazy import lazy_state_dict
from ..transformers import patch as patch_transformers
from ..transformers._adopt import adopt
from ._contract import broken_promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from ..options import StreamOptions

__all__ = ["patch"]


class _Weights(dict[str, "torch.Tensor"]):
    """A checkpoint's tensors by name, lazy, and the checkpoint, which stays open until they are adopted."""

    def __init__(self, files: Sequence[str], loader: object, stack: contextlib.ExitStack) -> None:
        self.loader = loader  # contexts may lie in each other: the one that made them adopts them
        self.checkpoint = stack.enter_context(open_files(files))
        lazies = lazy_state_dict(self.checkpoint)
        super().__init__(lazies)
        self.source = next(iter(lazies.values()))._source if lazies else None


@contextlib.contextmanager
def patch(*, options: StreamOptions | None = None) -> Iterator[None]:
    """Stream what diffusers' `from_pretrained` loads in this context and thread: models, pipelines, their components.

    Each model has a `PretrainedStream` at `model.streamload`; it may be used as soon as it is there. Weights go where
    diffusers puts them: to a GPU with `device_map="cuda"`; moved there afterwards, all are waited for first. Pickles,
    quantised and offloaded models load as ever. Those of transformers are streamed as `streamload.transformers.patch`
    streams them.

    Args:
        options: How to read and stage.

    Warns:
        RuntimeWarning: This diffusers is not as expected; its models load as ever.

    Example:
        >>> with streamload.diffusers.patch():
        ...     pipeline = StableDiffusionPipeline.from_pretrained("path", device_map="cuda")
        >>> image = pipeline("a cat").images[0]  # starts while the UNet arrives
    """
    from diffusers.models import modeling_utils

    with contextlib.ExitStack() as stack:
        if find_spec("transformers") is not None:
            stack.enter_context(patch_transformers(options=options))
        problem = broken_promise(modeling_utils)
        if problem is None:
            kind, of_files = modeling_utils.ModelMixin, "load_state_dict"
            of_model = "_load_pretrained_model"
            loader = _Loader(kind.__dict__[of_model].__func__, getattr(modeling_utils, of_files), options)
            stack.callback(loader.close)
            stack.enter_context(_replaced(modeling_utils, of_files, loader.read))
            # A function, so that it is bound to the class it is called on.
            stack.enter_context(
                _replaced(kind, of_model, classmethod(lambda *args, **given: loader.load(*args, **given)))
            )
        else:
            warnings.warn(f"diffusers' models are not streamed: {problem}", RuntimeWarning, stacklevel=3)
        yield


class _Loader:
    """Stands in for two functions, on the thread that made it, until it is closed; then it is as if it were not there.

    Args:
        stock_load: The function behind `ModelMixin._load_pretrained_model`.
        stock_read: `load_state_dict`.
        options: How to read and stage.
    """

    def __init__(
        self, stock_load: Callable[..., object], stock_read: Callable[..., object], options: StreamOptions | None
    ) -> None:
        self._load, self._read, self._options = stock_load, stock_read, options
        self._thread: int | None = threading.get_ident()
        self._stack = contextlib.ExitStack()  # of checkpoints

    def close(self) -> None:
        self._thread = None
        self._stack.close()

    def read(self, checkpoint_file: object, *args: object, **given: object) -> object:
        """Stand in for `load_state_dict`."""
        if self._thread == threading.get_ident() and _are_safetensors([checkpoint_file]):
            return _Weights([str(checkpoint_file)], self, self._stack)
        return self._read(checkpoint_file, *args, **given)

    def load(self, kind: type, model: object, weights: object, files: object, *args: object, **given: object) -> object:
        """Stand in for `_load_pretrained_model`."""
        if self._thread == threading.get_ident() and _are_streamable(given):
            if weights is None and _are_safetensors(files):
                weights = _Weights([str(file) for file in cast("Sequence[object]", files)], self, self._stack)
        elif isinstance(weights, _Weights):
            weights = {name: cast("Any", each).value() for name, each in weights.items()}
        loaded = self._load(kind, model, weights, files, *args, **given)
        if isinstance(weights, _Weights) and weights.loader is self:
            module = cast("Any", model)
            with weights.checkpoint as checkpoint:
                module.streamload = adopt(module, checkpoint, self._options)
            if weights.source is not None:
                module.streamload.read_early = tuple(weights.source.names_read)
        return loaded


def _are_safetensors(files: object) -> bool:
    return isinstance(files, list) and bool(files) and all(str(file).endswith(".safetensors") for file in files)


def _are_streamable(given: dict[str, object]) -> bool:
    """Whether weights are put into the model as they are, and stay in memory."""
    devices = given.get("device_map")
    offloaded = isinstance(devices, dict) and "disk" in devices.values()
    others = ("hf_quantizer", "tp_shard_specs", "offload_state_dict")
    return not offloaded and not any(given.get(name) for name in others)


@contextlib.contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    old = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)
