"""from_pretrained: one call that finds a model's class, and returns the model while it is filled.

Part of `transformers`. Finds out the class and the device; all else is `patch` around the stock call.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, overload

from .._sources import local_path
from ..torch._memory import resolve_device
from ._auto import StreamedClass
from ._patch import HANDLE, patch_for
from ._remote import open_remote, settle
from ._stream import PretrainedStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from transformers import PreTrainedModel

    from ..options import StreamOptions

__all__ = ["from_pretrained"]

_HUB: Final = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""What says which files of a repository are meant, and how to get them."""


@overload
def from_pretrained(
    name_or_path: str | os.PathLike[str],
    *,
    output_loading_info: Literal[True],
    auto_class: type | StreamedClass | str | None = None,
    device: str | int | torch.device = "cuda",
    dtype: str | torch.dtype = "auto",
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    wait: bool = False,
    **stock: object,
) -> tuple[PreTrainedModel, dict[str, object]]: ...
@overload
def from_pretrained(
    name_or_path: str | os.PathLike[str],
    *,
    output_loading_info: Literal[False] = False,
    auto_class: type | StreamedClass | str | None = None,
    device: str | int | torch.device = "cuda",
    dtype: str | torch.dtype = "auto",
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    wait: bool = False,
    **stock: object,
) -> PreTrainedModel: ...
def from_pretrained(
    name_or_path: str | os.PathLike[str],
    *,
    output_loading_info: bool = False,
    auto_class: type | StreamedClass | str | None = None,
    device: str | int | torch.device = "cuda",
    dtype: str | torch.dtype = "auto",
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    wait: bool = False,
    **stock: object,
) -> PreTrainedModel | tuple[PreTrainedModel, dict[str, object]]:
    """Load a transformers model, and return it while its weights still arrive.

    It computes at once: what it needs and is not there yet is waited for, and read next. `model.streamload` watches
    the load (`wait`, `progress`, `stats`) and takes the weights off the device and back (`sleep`, `wake`). What cannot
    be streamed is loaded by transformers, with one warning.

    Args:
        name_or_path: A directory or its `file://` URL, or the id of a repository on the hub, of which what is not in
            the local cache is downloaded first. Or the URL of a directory in a store (`s3://`, `https://`, … as for
            `streamload.open`): its small files are fetched, and its weights stream.
        output_loading_info: Return the model and a dict: missing, unexpected and mismatched keys.
        auto_class: A class of transformers or its name, `AutoModelForCausalLM` say. None takes the class that the
            config names in `architectures`, or else `AutoModel`.
        device: Where to: "cuda", "cuda:<n>", a number, a `torch.device`, or "cpu". Leave it out to give `device_map`.
        dtype: Of the parameters; "auto" takes the one of the config, or else of the file. Also as `torch_dtype`.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read and stage.
        wait: Return when all is resident.
        **stock: What the stock `from_pretrained` takes.

    Raises:
        DeviceError: There is no such device.
        ValueError: `device` and `device_map` are both given, or `dtype` and `torch_dtype`, or there is no such class.
        OSError: There is no such model, or it has no weights; a note names the model where transformers does not.
        Exception: Whatever else the stock call raises.

    Example:
        >>> model = streamload.from_pretrained("path/to/model")
        >>> model.generate(**tokens)  # runs while later layers arrive
    """
    stock["dtype"] = _one_dtype(dtype, stock.pop("torch_dtype", None))
    stock["device_map"] = _device_map(device, stock.get("device_map"))
    stock["output_loading_info"] = output_loading_info
    with contextlib.ExitStack() as stack:
        remote = open_remote(name_or_path, stack, stock, storage_options, options)
        name = _local(name_or_path) if remote is None else remote.directory
        with _naming(name if remote is None else remote.url):
            kind = _named(auto_class) if auto_class is not None else _find_class(name, stock)
            with patch_for(options, remote):
                made = kind.from_pretrained(name, **stock)
        model = made[0] if isinstance(made, tuple) else made
        if remote is not None:
            settle(model, remote)
    if HANDLE not in vars(model):
        setattr(model, HANDLE, PretrainedStream(None, reason="its class loads in a way of its own"))
    if wait:
        getattr(model, HANDLE).wait()
    return cast("PreTrainedModel | tuple[PreTrainedModel, dict[str, object]]", made)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Note on an error of files which model was meant: transformers names none that is neither cached nor reachable.

    Python shows notes from 3.11 on.
    """
    try:
        yield
    except OSError as error:
        if name not in str(error):
            vars(error).setdefault("__notes__", []).append(f"while loading {name!r}")
        raise


def _local(name_or_path: str | os.PathLike[str]) -> str:
    """Return a path for a `file://` URL, and everything else as it is."""
    return local_path(name_or_path) if "://" in os.fspath(name_or_path) else os.fspath(name_or_path)


def _one_dtype(dtype: str | torch.dtype, torch_dtype: object) -> object:
    if torch_dtype is None or torch_dtype == dtype:
        return dtype
    if dtype != "auto":
        raise ValueError(
            f"dtype={dtype} and torch_dtype={torch_dtype} were both given; they are two names of one thing"
        )
    return torch_dtype


def _device_map(device: str | int | torch.device, device_map: object) -> object:
    """Return transformers' word for where to; it wants none for the CPU."""
    if device_map is not None:
        if device != "cuda":
            raise ValueError(f"device={device!r} and device_map={device_map!r} were both given: which?")
        return device_map
    where = resolve_device(device)
    return None if where.type == "cpu" else {"": where}


def _named(auto_class: type | StreamedClass | str) -> Any:  # noqa: ANN401 - a class of transformers
    import transformers

    if isinstance(auto_class, StreamedClass):
        return auto_class.stock
    found = getattr(transformers, auto_class, None) if isinstance(auto_class, str) else auto_class
    if not hasattr(found, "from_pretrained"):
        raise ValueError(f"auto_class={auto_class!r}: transformers {transformers.__version__} has no such model class")
    return found


def _find_class(name: str, stock: Mapping[str, object]) -> Any:  # noqa: ANN401 - a class of transformers
    """Return the class that a model's config names."""
    import transformers

    config = _find_config(name, stock)
    architectures = [one for one in getattr(config, "architectures", None) or () if isinstance(one, str)]
    if stock.get("trust_remote_code"):
        remote = dict(getattr(config, "auto_map", None) or {})
        autos = [auto for auto in remote if auto.startswith("AutoModel") and hasattr(transformers, auto)]
        autos.sort(key=lambda auto: str(remote[auto]).rpartition(".")[2] not in architectures)
        if autos:
            return getattr(transformers, autos[0])
    for architecture in architectures:
        found = getattr(transformers, architecture, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModel


def _find_config(name: str, stock: Mapping[str, object]) -> object:
    """Return a model's config; for a directory that holds an adapter only, its base model's."""
    from transformers import AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    given = stock.get("config")
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return given
    hub: dict[str, Any] = {key: stock[key] for key in _HUB if key in stock}
    extra: dict[str, Any] = {
        key: stock[key] for key in ("trust_remote_code", "code_revision", "gguf_file") if key in stock
    }
    try:
        return AutoConfig.from_pretrained(name if given is None else given, **hub, **extra)
    except (OSError, ValueError):  # no config, or none that names a model
        adapter = find_adapter_config_file(name, **hub)
        if adapter is None:
            raise
        base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
        places: dict[str, Any] = {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
        return AutoConfig.from_pretrained(base, **places, **extra)
