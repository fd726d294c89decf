"""obstore: `get_range` in threads, as its documentation has it for ranges of one's own.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import obstore
from obstore.store import S3Store

from ._course import Course, Moved, Range, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    key, secret = course.secrets
    stores = {
        bucket: S3Store(
            bucket,
            endpoint=course.endpoint,
            access_key_id=key,
            secret_access_key=secret,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        for bucket, _ in course.keys
    }

    def fetch(one: Range) -> None:
        bucket, key = course.keys[one.number]
        got = obstore.get_range(stores[bucket], key, start=one.start, length=len(one.target))
        np.copyto(np.frombuffer(one.target, np.uint8), np.frombuffer(memoryview(got), np.uint8))  # without the GIL

    return lambda: in_threads(course, lambda: fetch)
