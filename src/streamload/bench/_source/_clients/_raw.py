"""The ceiling: sockets read by C++ threads, nothing checked, nothing kept in order.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .... import _native
from ..._rounds import CannotRun
from ._course import Course, Moved

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    addresses = [urlsplit(url) for url in course.signed]
    if any(address.scheme != "http" or address.hostname is None for address in addresses):
        raise CannotRun("raw sockets speak plain HTTP only")
    return partial(_move, addresses, course)


def _move(addresses: list[SplitResult], course: Course) -> Moved:
    for address, nbytes in zip(addresses, course.nbytes, strict=True):
        ranges = [(start, min(course.range_bytes, nbytes - start)) for start in range(0, nbytes, course.range_bytes)]
        asked = f"{address.path}?{address.query}" if address.query else address.path
        _native.measure_http(address.hostname or "", address.port or 80, asked, ranges, course.connections)
    return Moved()
