"""InstantTensor: io_uring into a pinned buffer, through a ring on the device, CUDA only.

Floor 6; needs instanttensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._peer import cuda_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["instanttensor"]


def instanttensor(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Get its `safe_open` over all files ready; what is not kept are views into its ring."""
    cuda_only(course)
    from instanttensor import safe_open

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        files = [str(file) for file in course.files]
        with safe_open(files, framework="pt", device=course.torch_device, copy=keep) as opened:
            yield from opened.tensors()

    return load
