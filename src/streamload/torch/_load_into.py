"""Fill a module from a path: `stream_module` for those who have not opened the checkpoint.

Floor 4, part of `torch`. Read next: `_module_stream`, which does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checkpoint import Checkpoint, open
from ._module_stream import stream_module
from ._submit import refuse_storage_options

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import torch

    from .._engine import CopyEngine
    from ..options import StreamOptions
    from ._module_stream import ModuleStream

__all__ = ["load_into"]


def load_into(
    module: torch.nn.Module,
    source: str | os.PathLike[str] | Checkpoint,
    *,
    device: str | int | torch.device = "cuda",
    strict: bool = True,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> ModuleStream:
    """Fill a module from a file, a directory or a checkpoint, in place, and return at once.

    The module may be used right away; `stream_module` says what that means. Tied tensors stay tied: of their names one
    is enough. Where a module changes its weights' names or shapes as it loads, see `streamload.load_with`.

    Args:
        module: Its parameters on the meta device or real. Buffers that are not saved must be real: no file holds them.
        source: A path or URL as for `streamload.open`, opened and closed here; or an open checkpoint, which stays
            open.
        device: Of meta tensors, and where real ones must be.
        strict: Refuse names that only one of the two has.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read and stage; not together with `engine`.
        engine: A copy engine of one's own. None: the one that loads to this device share.

    Raises:
        FormatError, FileNotFoundError, PermissionError: As `streamload.open`.
        RuntimeError: Names, shapes, dtypes or devices do not fit, or an unsaved buffer is on meta; all are listed.
        TypeError, ValueError, DeviceError, StreamClosedError, torch.OutOfMemoryError: As `stream_module`.

    Example:
        >>> with accelerate.init_empty_weights(include_buffers=False):
        ...     model = Model(config)
        >>> loading = load_into(model, "path/to/model", device="cuda:0")
        >>> logits = model(tokens)  # runs while later layers arrive
    """
    if isinstance(source, Checkpoint):
        refuse_storage_options(storage_options)
        return stream_module(module, source, device, strict=strict, options=options, engine=engine)
    with open(source, storage_options=storage_options, options=options) as checkpoint:
        return stream_module(module, checkpoint, device, strict=strict, options=options, engine=engine)
