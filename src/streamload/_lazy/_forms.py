"""Foretell what joining many tensors comes to, without asking the meta device.

Part of `_lazy`. Its kernels for that look at every tensor several times, in Python: of 128 experts in each of 48 layers
that took a quarter of all planning. Said here is what is plain; of the rest the meta device knows better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch._ops import OpOverload

__all__ = ["joined_form"]

_CAT = torch.ops.aten.cat.default
_STACK = torch.ops.aten.stack.default


def joined_form(
    func: OpOverload[..., object], forms: Sequence[torch.Tensor], options: Sequence[object]
) -> torch.Tensor | None:
    """Return the form of tensors that are joined; None if the operation is another, or not a plain case of it.

    Args:
        func: The operation.
        forms: Those that it joins, on the meta device.
        options: Its other arguments, in their order.
    """
    if func not in (_CAT, _STACK) or not forms:
        return None
    first = forms[0]
    dtype, shape = first.dtype, first.shape
    if not all([form.is_contiguous() and form.dtype == dtype for form in forms]):
        return None
    at = options[0] if options else 0
    axes = len(shape) + (func is _STACK)
    if not isinstance(at, int) or not -axes <= at < axes:
        return None
    at %= axes
    before, behind = shape[:at], shape[at:] if func is _STACK else shape[at + 1 :]
    if func is _STACK:
        if not all([form.shape == shape for form in forms]):
            return None
        extent = len(forms)
    else:
        shapes = [form.shape for form in forms]
        if not all([each[:at] == before and each[at + 1 :] == behind and len(each) == axes for each in shapes]):
            return None
        extent = sum([each[at] for each in shapes])
    return torch.empty((*before, extent, *behind), dtype=dtype, device="meta")
