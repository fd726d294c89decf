"""s3torchconnector: the client beneath it, with ranges in threads.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from s3torchconnector._s3client import S3Client, S3ClientConfig

from ._course import Course, Moved, Range, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    client = S3Client(
        "us-east-1", endpoint=course.endpoint, s3client_config=S3ClientConfig(force_path_style=True, unsigned=True)
    )

    def fetch(one: Range) -> None:
        bucket, key = course.keys[one.number]
        done = 0
        for part in client._get_object_stream(bucket, key, one.start, one.start + len(one.target)):
            end = done + len(part)
            np.copyto(np.frombuffer(one.target[done:end], np.uint8), np.frombuffer(part, np.uint8))
            done = end

    return lambda: in_threads(course, lambda: fetch)
