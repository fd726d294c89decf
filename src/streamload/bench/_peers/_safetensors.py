"""safetensors: on the CPU a mapping, read when it is copied from; on CUDA tensor by tensor.

Floor 6; needs safetensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["safetensors"]


def safetensors(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Get `safetensors.torch.load_file` ready; what is kept of a mapping is cloned."""
    from safetensors.torch import load_file

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        for file in course.files:
            for name, tensor in load_file(file, device=course.torch_device).items():
                yield name, tensor.clone() if keep and course.on_host else tensor

    return load
