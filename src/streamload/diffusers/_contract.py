"""Whether the installed diffusers loads models the way that `_patch` relies on.

Part of `diffusers`. Read from signatures and names in code; written for diffusers 0.42.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["broken_promise"]

_FIRST = ["model", "state_dict", "resolved_model_file"]  # arguments of `_load_pretrained_model`, in order
_ALSO = frozenset({"hf_quantizer", "device_map", "offload_state_dict", "low_cpu_mem_usage"})


def broken_promise(modeling_utils: ModuleType) -> str | None:
    """Return what of `diffusers.models.modeling_utils` is not as expected; None where all is."""
    try:
        kind = modeling_utils.ModelMixin
        method = kind.__dict__["_load_pretrained_model"]
        arguments = list(inspect.signature(method.__func__).parameters)[1:]
        reader = list(inspect.signature(modeling_utils.load_state_dict).parameters)
        used = inspect.unwrap(kind.from_pretrained.__func__).__code__.co_names
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(method, classmethod) or arguments[:3] != _FIRST or not set(arguments) >= _ALSO:
        return f"ModelMixin._load_pretrained_model takes {arguments}"
    if reader[:1] != ["checkpoint_file"]:
        return f"load_state_dict takes {reader}"
    if not {"load_state_dict", "_load_pretrained_model"} <= set(used):
        return "ModelMixin.from_pretrained does not call load_state_dict and _load_pretrained_model"
    return None
