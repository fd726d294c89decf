"""safetensors `safe_open(...).prefetch()`, which its 0.9 pre-releases bring: threads and a pinned pool, CUDA only.

Floor 6; needs such a safetensors.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from .._rounds import CannotRun
from ._peer import cuda_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["prefetch"]


def prefetch(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Get `prefetch` ready; all files are started at once, since each has its own reading threads."""
    import safetensors

    cuda_only(course)  # first: a pre-release would not help on the host
    if not hasattr(safetensors.safe_open, "prefetch"):
        raise CannotRun(f"safetensors {safetensors.__version__} has no prefetch; 0.9.0rc1 has")

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        with ExitStack() as stack:
            opened = [
                stack.enter_context(safetensors.safe_open(file, framework="pt", device=course.torch_device))
                for file in course.files
            ]
            for loader in [file.prefetch() for file in opened]:
                yield from loader

    return load
