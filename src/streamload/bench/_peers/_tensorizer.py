"""tensorizer: a format of its own, read by several threads.

Floor 6; needs tensorizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._peer import check_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["tensorizer"]


def tensorizer(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Write the tensors in its format, and get `TensorDeserializer` ready."""
    from safetensors.torch import load_file
    from tensorizer import TensorDeserializer, TensorSerializer

    files = [course.scratch / f"{file.stem}.tensors" for file in course.files]
    if not all(file.exists() for file in files):
        check_room(course)
        for source, target in zip(course.files, files, strict=True):
            serializer = TensorSerializer(str(target))
            serializer.write_state_dict(load_file(source))
            serializer.close()

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        for file in files:
            with TensorDeserializer(str(file), device=course.torch_device) as tensors:
                yield from tensors.items()

    return load
