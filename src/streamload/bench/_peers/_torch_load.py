"""torch.load of files that torch.save wrote, mapped.

Floor 6; needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._peer import check_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["torch_load"]


def torch_load(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Write the tensors as `torch.save` does, and get `torch.load` ready; what is kept is cloned or moved."""
    import torch
    from safetensors.torch import load_file

    files = [course.scratch / f"{file.stem}.pt" for file in course.files]
    if not all(file.exists() for file in files):
        check_room(course)
        for source, target in zip(course.files, files, strict=True):
            torch.save(load_file(source), target)

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        for file in files:
            for name, tensor in torch.load(file, mmap=True, weights_only=True).items():
                if keep:
                    yield name, tensor.clone() if course.on_host else tensor.to(course.torch_device)
                else:
                    yield name, tensor

    return load
