"""The ceiling: sockets read by C++ threads, nothing checked, nothing kept in order.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .... import _native
from ._course import Course, Moved

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    host, port = course.plain_server
    return partial(_move, host, port, course)


def _move(host: str, port: int, course: Course) -> Moved:
    for (bucket, key), nbytes in zip(course.keys, course.nbytes, strict=True):
        ranges = [(start, min(course.range_bytes, nbytes - start)) for start in range(0, nbytes, course.range_bytes)]
        _native.measure_http(host, port, f"/{bucket}/{key}", ranges, course.connections)
    return Moved()
