"""The clients of the source benchmark, one in a file: how each moves every byte of some objects into memory.

Part of `bench._source`. A file is imported in the process that measures its client alone. Each defines
`get_ready(course: Course) -> Callable[[], Moved]`: what it does is outside the clock, what it returns moves everything
once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._course import Course, Moved

__all__ = ["CEILING", "FALLBACK", "LOAD_AFTER", "NAMES", "OURS", "RING", "get_ready"]

CEILING = "raw sockets"
OURS = "streamload, into place"
RING = "streamload, through the ring"
FALLBACK = "streamload without libcurl"
LOAD_AFTER = "download, then load"

NAMES = {
    CEILING: "_raw",
    OURS: "_ours",
    RING: "_ours",
    FALLBACK: "_ours",
    "obstore": "_obstore",
    "boto3": "_boto3",
    "awscrt": "_awscrt",
    "s3torchconnector": "_s3torch",
    "s3fs": "_s3fs",
    "runai-model-streamer": "_runai",
    LOAD_AFTER: "_download",
}
"""The module of each client, by its name in the result."""


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what a client needs outside the clock, and return what moves every byte once.

    Raises:
        ModuleNotFoundError: The client is not installed.
        CannotRun: It cannot take part.
    """
    ready: Callable[[str, Course], Callable[[], Moved]] = import_module(f".{NAMES[name]}", __name__).get_ready
    return ready(name, course)
