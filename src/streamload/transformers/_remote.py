"""A name that may be the URL of a model in a store: open what it names, and hide the directory that stands for it.

Part of `transformers`; what `from_pretrained` and `StreamedClass` have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .._sources import is_remote
from ._from_url import refuse_stock, remote_model
from ._patch import HANDLE

if TYPE_CHECKING:
    import contextlib
    import os
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from ..options import StreamOptions
    from ._from_url import RemoteModel

__all__ = ["open_remote", "settle"]


def open_remote(
    name_or_path: str | os.PathLike[str],
    stack: contextlib.ExitStack,
    stock: Mapping[str, object],
    storage_options: Mapping[str, object] | None,
    options: StreamOptions | None,
) -> RemoteModel | None:
    """Open the model in a store that a URL names, for as long as the stack lasts; None for what is no URL.

    Raises:
        ValueError: `storage_options` are given for what is no URL; or as `streamload.open`.
        TypeError, ImportError, FileNotFoundError, PermissionError, FormatError, SourceError: As `streamload.open`.
    """
    if is_remote(name_or_path):
        variant = cast("str | None", stock.get("variant"))
        stands = remote_model(str(name_or_path), variant=variant, storage_options=storage_options, options=options)
        return stack.enter_context(stands)
    if storage_options:
        raise ValueError(f"{name_or_path}: storage_options are for stores, and this is none")
    return None


def settle(model: PreTrainedModel, remote: RemoteModel) -> None:
    """Make sure that no stand-in was loaded, and give the model its store's name.

    Raises:
        OSError: One was.
    """
    if HANDLE not in vars(model):
        refuse_stock(remote, "its class loads in a way of its own")
    for holder in (model, model.config):
        if str(getattr(holder, "_name_or_path", getattr(holder, "name_or_path", ""))) == remote.directory:
            holder.name_or_path = remote.url
