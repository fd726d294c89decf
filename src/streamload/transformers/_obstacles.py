"""Where streaming cannot be right, and transformers loads by itself.

Part of `transformers`. Reads what transformers is about to do from the arguments of its own method, or from its
`LoadStateDictConfig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["find_obstacle", "is_quantized"]

_DEVICES: Final = ("cpu", "cuda")
_PREQUANTIZED: Final = ("awq", "compressed-tensors", "fp8", "gptq")
"""Methods whose checkpoints hold the parameters as the model has them; others unpack what they read by its metadata."""


def find_obstacle(arguments: Mapping[str, object]) -> str | None:
    """Say why a load cannot be streamed; None if it can.

    Args:
        arguments: Of `_load_pretrained_model`, by name.
    """
    files = arguments.get("checkpoint_files")
    if arguments.get("state_dict") is not None:
        return "its weights were given as a state dict"
    if not isinstance(files, (list, tuple)) or not files:
        return "it has no checkpoint files"
    if others := [str(file) for file in files if not str(file).endswith(".safetensors")]:
        return f"{others[0]} is not a safetensors file; save_pretrained writes one"
    return (
        _distributed(_setting(arguments, "device_mesh"))
        or _spread(_setting(arguments, "device_map"))
        or _quantized(_setting(arguments, "hf_quantizer"))
    )


def is_quantized(arguments: Mapping[str, object]) -> bool:
    """Say whether a quantiser is to work on the loaded weights."""
    return _setting(arguments, "hf_quantizer") is not None


def _setting(arguments: Mapping[str, object], name: str) -> Any:  # noqa: ANN401 - whatever transformers has there
    """Return an argument, or the attribute of `load_config` that took its place in transformers 5."""
    return arguments.get(name, getattr(arguments.get("load_config"), name, None))


def _distributed(device_mesh: object) -> str | None:
    from transformers import modeling_utils

    if device_mesh is not None:
        return "its tensors are to be split over a device mesh"
    for name, what in (("is_deepspeed_zero3_enabled", "DeepSpeed ZeRO-3"), ("is_fsdp_enabled", "FSDP")):
        if (enabled := getattr(modeling_utils, name, None)) is not None and enabled():
            return f"{what} places its weights"
    return None


def _spread(device_map: Mapping[str, object] | None) -> str | None:
    places = list(dict.fromkeys([_place(where) for where in (device_map or {}).values()]))
    if "disk" in places:
        return "its device map keeps weights on disk"
    if len(places) > 1:
        return f"its device map has more than one device: {', '.join(places)}"
    if others := [place for place in places if place.partition(":")[0] not in _DEVICES]:
        return f"{others[0]} is neither the CPU nor a CUDA device"
    return None


def _place(where: object) -> str:
    if isinstance(where, int):
        return f"cuda:{where}"
    if where == "disk":
        return "disk"
    device = torch.device(cast("str | torch.device", where))
    return "cuda:0" if device == torch.device("cuda") else str(device)


def _quantized(quantizer: Any) -> str | None:  # noqa: ANN401 - a class of transformers
    if quantizer is None:
        return None
    method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", None)
    name = str(getattr(method, "value", method))
    if not getattr(quantizer, "pre_quantized", False):
        return f"it is quantised while it loads ({name})"
    return None if name in _PREQUANTIZED else f"its weights are in the format of {name}"
