"""Name torch's dtype and shape for what a safetensors header says.

Floor 4, part of `torch`; pure. The table is that of safetensors 0.8 (its `bindings/python/src/lib.rs`, `get_pydtype`).
Read next: `_memory` for the tensors made from it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._format import TensorInfo
    from ._assembly import Assembly

_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        # safetensors name: (torch's name, first torch release that has it)
        "BOOL": ("bool", "1.2"),
        "U8": ("uint8", "1.0"),
        "I8": ("int8", "1.0"),
        "I16": ("int16", "1.0"),
        "I32": ("int32", "1.0"),
        "I64": ("int64", "1.0"),
        "U16": ("uint16", "2.3"),
        "U32": ("uint32", "2.3"),
        "U64": ("uint64", "2.3"),
        "F16": ("float16", "1.0"),
        "BF16": ("bfloat16", "1.0"),
        "F32": ("float32", "1.0"),
        "F64": ("float64", "1.0"),
        "C64": ("complex64", "1.0"),
        "F8_E4M3": ("float8_e4m3fn", "2.1"),
        "F8_E5M2": ("float8_e5m2", "2.1"),
        "F8_E4M3FNUZ": ("float8_e4m3fnuz", "2.2"),
        "F8_E5M2FNUZ": ("float8_e5m2fnuz", "2.2"),
        "F8_E8M0": ("float8_e8m0fnu", "2.7"),
        "F4": ("float4_e2m1fn_x2", "2.8"),
    }
)

DLPACK_DTYPES: Mapping[torch.dtype, tuple[int, int]] = MappingProxyType(
    {
        torch.bool: (6, 8),
        torch.uint8: (1, 8),
        torch.int8: (0, 8),
        torch.int16: (0, 16),
        torch.int32: (0, 32),
        torch.int64: (0, 64),
        torch.float16: (2, 16),
        torch.bfloat16: (4, 16),
        torch.float32: (2, 32),
        torch.float64: (2, 64),
        torch.complex64: (5, 64),
    }
)
"""Type code and bits of an element (`DLDataTypeCode`, dlpack.h) for what every torch since 2.6 takes from DLPack."""

DLPACK_REALS: dict[str, tuple[int, int]] = {
    **{
        name: kind
        for name, (theirs, _) in _NAMES.items()
        for dtype, kind in DLPACK_DTYPES.items()
        if dtype is getattr(torch, theirs, None) and not dtype.is_complex
    },
    **{"U16": (1, 16), "U32": (1, 32), "U64": (1, 64)},
    **{"F8_E4M3": (10, 8), "F8_E4M3FNUZ": (11, 8), "F8_E5M2": (12, 8), "F8_E5M2FNUZ": (13, 8), "F8_E8M0": (14, 8)},
}
"""Type code and bits by safetensors' names, of real dtypes of whole bytes, as torch's exchange table has them."""


def torch_kinds(infos: Sequence[TensorInfo | Assembly]) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of each tensor; errors as those of `torch_dtype` and `torch_shape`."""
    dtypes: dict[str, torch.dtype] = {}
    for info in infos:
        if info.dtype not in dtypes:
            dtypes[info.dtype] = torch_dtype(info)
    if "F4" in dtypes:
        return [(dtypes[info.dtype], torch_shape(info)) for info in infos]
    return [(dtypes[info.dtype], info.shape) for info in infos]


def torch_dtype(info: TensorInfo | Assembly) -> torch.dtype:
    """Return the torch dtype that holds a tensor's bytes as they are.

    Raises:
        TypeError: No torch has such a dtype, or the installed one is too old; the message names the release needed.
    """
    named = _NAMES.get(info.dtype)
    if named is None:
        raise TypeError(f"tensor {info.name!r} is {info.dtype}, which no torch release has a dtype for")
    name, release = named
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"tensor {info.name!r} is {info.dtype}, which torch holds from release {release} on as torch.{name}; "
            f"this is torch {torch.__version__}"
        )
    return dtype


def safetensors_dtype(dtype: torch.dtype) -> str | None:
    """Return what safetensors calls a torch dtype; None if it has no name for it."""
    name = str(dtype).removeprefix("torch.")
    return next((ours for ours, (theirs, _) in _NAMES.items() if theirs == name), None)


def torch_shape(info: TensorInfo | Assembly) -> tuple[int, ...]:
    """Return the shape torch gives a tensor: the header's, but with the last extent halved for packed `F4`.

    Raises:
        TypeError: An `F4` tensor's last extent is odd, so that rows would share a byte, which torch cannot hold.
    """
    if info.dtype != "F4":
        return info.shape
    if not info.shape or info.shape[-1] % 2:
        raise TypeError(
            f"tensor {info.name!r} is F4 with shape {list(info.shape)}; torch packs two elements into a byte and "
            "needs an even last extent"
        )
    return (*info.shape[:-1], info.shape[-1] // 2)
