"""What most servers do today: download every file, then load it, then use it.

Part of `bench._source._clients`. boto3's transfer manager downloads (several parts at once) into memory files, so that
no drive is in its way, and safetensors loads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from ._boto3 import make_client
from ._course import Course, Moved
from ._ours import existing_tensors, sums_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    client = make_client(course)
    existing = existing_tensors(course)

    def move() -> Moved:
        files = [Path(course.scratch) / f"{number}.safetensors" for number in range(len(course.keys))]
        for (bucket, key), file in zip(course.keys, files, strict=True):
            client.download_file(bucket, key, str(file))
        with torch.no_grad():
            for file in files:
                for tensor_name, tensor in load_file(file).items():
                    existing[tensor_name].copy_(tensor)
                file.unlink()
        return Moved(sums=lambda: sums_of(course, existing))

    return move
