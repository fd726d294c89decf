"""awscrt: its S3 client, which cuts an object into parts by itself.

Part of `bench._source._clients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
from awscrt.s3 import (
    S3Client,
    S3RequestTlsMode,
    S3RequestType,
    create_default_s3_signing_config,
)

from ._course import Course, Moved

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    loops = EventLoopGroup()
    bootstrap = ClientBootstrap(loops, DefaultHostResolver(loops))
    provider = AwsCredentialsProvider.new_static(*course.secrets)
    client = S3Client(
        bootstrap=bootstrap,
        region="us-east-1",
        tls_mode=S3RequestTlsMode.DISABLED,
        part_size=course.range_bytes,
        signing_config=create_default_s3_signing_config(region="us-east-1", credential_provider=provider),
    )
    server = urlsplit(course.endpoint)

    def start(number: int) -> object:
        bucket, key = course.keys[number]
        target = np.frombuffer(course.targets[number], np.uint8)

        def on_body(*, chunk: bytes, offset: int, **_: object) -> None:
            np.copyto(target[offset : offset + len(chunk)], np.frombuffer(chunk, np.uint8))

        headers = HttpHeaders([("host", server.netloc)])
        return client.make_request(
            request=HttpRequest("GET", f"/{bucket}/{key}", headers), type=S3RequestType.GET_OBJECT, on_body=on_body
        )

    def move() -> Moved:
        for request in [start(number) for number in range(len(course.keys))]:
            request.finished_future.result()  # type: ignore[attr-defined]
        return Moved(course.targets)

    return move
