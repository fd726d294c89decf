"""boto3: `get_object` with a range, its body read into place, in threads.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Protocol, cast

import boto3
from botocore.config import Config

from ..._rounds import CannotRun
from ._course import Course, Moved, Range, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready", "make_client"]


class _Client(Protocol):
    """What is used of boto3's client, which has no types."""

    def get_object(self, *, Bucket: str, Key: str, Range: str) -> dict[str, IO[bytes]]: ...
    def download_file(self, bucket: str, key: str, path: str) -> None: ...


def make_client(course: Course) -> _Client:
    """Return a client of the course's store."""
    key, secret = course.secrets
    client = boto3.client(
        "s3",
        endpoint_url=course.endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=course.connections),
    )
    return cast("_Client", client)


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    client = make_client(course)

    def fetch(one: Range) -> None:
        bucket, key = course.keys[one.number]
        end = one.start + len(one.target)
        body = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={one.start}-{end - 1}")["Body"]
        done = 0
        while done < len(one.target):
            count = body.readinto(one.target[done:])  # type: ignore[attr-defined]
            if not count:
                raise CannotRun(f"the body ended after {done} of {len(one.target)} bytes")
            done += count

    return lambda: in_threads(course, lambda: fetch)
