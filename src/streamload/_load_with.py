"""Let a module's own loading code have weights that read nothing, then stream them where that code has put them.

Floor 7; needs torch. For code that ends in `load_state_dict(weights, assign=True)`, whatever it does before: renames,
splits, joins, casts. Read next: `_lazy`, which writes that down, and `transformers._adopt`, which carries it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._checkpoint import Checkpoint, open
from ._lazy import LazyTensor, lazy_state_dict
from .torch._memory import resolve_device
from .torch._seats import gather, tensors_of, walk
from .torch._submit import refuse_storage_options
from .transformers._adopt import adopt

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from .options import StreamOptions
    from .transformers._stream import PretrainedStream

    Places = list[tuple[torch.nn.Module, str]]

__all__ = ["load_with"]


def load_with(
    module: torch.nn.Module,
    source: str | os.PathLike[str] | Checkpoint,
    load: Callable[[dict[str, torch.Tensor]], object],
    *,
    device: str | int | torch.device = "cuda",
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
) -> PretrainedStream:
    """Stream what a loading function of one's own puts into a module, and return at once.

    The function gets every tensor of the checkpoint by name, on the device, none of them read. It may rename, slice,
    join, transpose and cast them, and has to set them as they are: `module.load_state_dict(weights, assign=True)`.
    What is copied into real memory instead, or asked for a value, is read there and then. The module may be used as
    soon as this returns: what touches a tensor that has not arrived waits for it. Tensors that were tied before, which
    `assign=True` sets apart, are tied again.

    Args:
        module: Its parameters on the meta device or real.
        source: A path or URL as for `streamload.open`, opened and closed here; or an open checkpoint, which stays
            open.
        load: Called once, on this thread, with weights by name. Must not keep any of them elsewhere.
        device: Where to: "cuda", "cuda:<n>", a number, a `torch.device`, or "cpu".
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read and stage.

    Raises:
        FormatError, FileNotFoundError, PermissionError: As `streamload.open`.
        SourceError, DeviceError, StreamClosedError, torch.OutOfMemoryError: As `stream_module`.
        RuntimeError: A parameter or buffer is still on the meta device after `load`; all are listed.
        Exception: What `load` raises, as it is. After any of these the module has the tensors it had.

    Example:
        >>> def load(weights):
        ...     model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()}, assign=True)
        >>> loading = streamload.load_with(model, "path/to/model", load, device="cuda:0")
    """
    if not isinstance(source, Checkpoint):
        with open(source, storage_options=storage_options, options=options) as checkpoint:
            return load_with(module, checkpoint, load, device=device, options=options)
    refuse_storage_options(storage_options)
    where = resolve_device(device)
    before = [(found.tensor, found.places) for found in gather(module)]
    lazies = lazy_state_dict(source)
    try:
        load({name: lazy if where.type == "cpu" else lazy.to(where) for name, lazy in lazies.items()})
        _tie(before)
        _refuse_meta(module)
        stream = adopt(module, source, options)
    except BaseException:
        for tensor, places in before:
            _put(tensor, places)
        raise
    if lazies:
        stream.read_early = tuple(next(iter(lazies.values()))._source.names_read)
    return stream


def _tie(before: Sequence[tuple[torch.Tensor, Places]]) -> None:
    """Where one tensor was in several places set one again: the last loaded, which counts in `load_state_dict` too."""
    for old, places in before:
        if len(places) < 2:
            continue
        now = [getattr(owner, attribute, None) for owner, attribute in places]
        loaded = [tensor for tensor in now if isinstance(tensor, LazyTensor)]
        loaded = loaded or [each for each in now if each is not None and each is not old]
        if loaded:
            _put(loaded[-1], places)


def _put(tensor: torch.Tensor, places: Places) -> None:
    for owner, attribute in places:
        held: dict[str, Any] = owner._parameters if attribute in owner._parameters else owner._buffers
        if attribute in held:
            held[attribute] = tensor


def _refuse_meta(module: torch.nn.Module) -> None:
    names = [
        prefix + attribute for prefix, owner in walk(module) for attribute, each in tensors_of(owner) if each.is_meta
    ]
    if names:
        raise RuntimeError(
            f"{type(module).__name__} has tensors on the meta device that were not loaded: {', '.join(names)}; build "
            "it with real buffers where no file holds them, and look for parameters that the checkpoint lacks"
        )
