"""Keep torch.compile away from what waits for weights.

Floor 4, part of `torch`. A frame that dynamo gave up runs as it is, and dynamo then looks at every Python function it
calls: at the gate's too, which it would compile, or stumble over. Only a private switch of torch does without
importing dynamo, which takes seconds; where it is missing nothing is marked. Read next: `_gate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")


def untraced(function: F) -> F:
    """Mark a Python function so that dynamo compiles neither it nor what it calls, and return it."""
    frames = torch._C._dynamo.eval_frame
    mark = getattr(frames, "set_code_exec_strategy", None)
    strategy = getattr(frames, "_FrameExecStrategy", None)
    action = getattr(frames, "_FrameAction", None)
    if mark is not None and strategy is not None and action is not None:
        mark(function.__code__, strategy(action.SKIP, action.SKIP))
    return function
