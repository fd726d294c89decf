"""fastsafetensors without GDS: threads, and a bounce buffer where the device is not the host.

Floor 6; needs fastsafetensors. Reads directly by default; FASTSAFETENSORS_ODIRECT=0 makes it read through the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from .._course import Course

__all__ = ["fastsafetensors"]


def fastsafetensors(course: Course, *, keep: bool) -> Callable[[], Iterator[tuple[str, torch.Tensor]]]:
    """Get `SafeTensorsFileLoader` ready; its tensors share the memory of their file, which they own."""
    from fastsafetensors import SafeTensorsFileLoader

    def load() -> Iterator[tuple[str, torch.Tensor]]:
        loader = SafeTensorsFileLoader(None, device=course.torch_device, nogds=True)
        try:
            loader.add_filenames({0: [str(file) for file in course.files]})
            loaded = loader.copy_files_to_device()
            try:
                for name in loader.get_keys():
                    yield name, loaded.get_tensor(name)
            finally:
                loaded.close()
        finally:
            loader.close()

    return load
