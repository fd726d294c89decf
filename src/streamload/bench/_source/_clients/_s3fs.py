"""s3fs: `cat_ranges`, its call for many ranges at once.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import s3fs

from ._course import Course, Moved

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    key, secret = course.secrets
    system = s3fs.S3FileSystem(key=key, secret=secret, endpoint_url=course.endpoint, skip_instance_cache=True)
    ranges = list(course.ranges())

    def move() -> Moved:
        for first in range(0, len(ranges), course.connections):  # all at once would hold everything twice
            some = ranges[first : first + course.connections]
            got = system.cat_ranges(
                ["/".join(course.keys[one.number]) for one in some],
                [one.start for one in some],
                [one.start + len(one.target) for one in some],
                on_error="raise",
            )
            for one, data in zip(some, got, strict=True):
                np.copyto(np.frombuffer(one.target, np.uint8), np.frombuffer(data, np.uint8))
        return Moved(course.targets)

    return move
