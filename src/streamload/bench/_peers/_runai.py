"""Run:ai Model Streamer: many reads in flight into host memory.

Floor 6; needs runai-model-streamer. Reads directly by default; RUNAI_STREAMER_FS_STRATEGY=sync_buffered makes it read
through the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["runai"]


def runai(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Get `SafetensorsStreamer` ready; tensors that own their memory, its default, are also the faster to copy from."""
    from runai_model_streamer import SafetensorsStreamer

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(file) for file in course.files], device=course.torch_device)
            yield from streamer.get_tensors()

    return load
