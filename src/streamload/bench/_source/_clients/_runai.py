"""Run:ai Model Streamer: its safetensors streamer over s3://, tensor by tensor into memory of ours.

Part of `bench._source._clients`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import runai_model_streamer_s3  # noqa: F401 - so that its absence is said
import torch
from runai_model_streamer import SafetensorsStreamer
from runai_model_streamer.s3_utils.s3_utils import S3Credentials

from ._course import Course, Moved
from ._ours import existing_tensors, sums_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["get_ready"]


def get_ready(name: str, course: Course) -> Callable[[], Moved]:
    """Do what `_clients.get_ready` says."""
    key, secret = course.secrets
    credentials = S3Credentials(key, secret, region_name="us-east-1", endpoint=course.endpoint)
    # Its C++ half looks for these; this process is the client's own.
    os.putenv("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", "0")
    os.putenv("RUNAI_STREAMER_CONCURRENCY", str(course.connections))
    existing = existing_tensors(course)
    files = [f"s3://{bucket}/{key}" for bucket, key in course.keys]

    def move() -> Moved:
        with SafetensorsStreamer() as streamer, torch.no_grad():
            streamer.stream_files(files, s3_credentials=credentials)
            for tensor_name, tensor in streamer.get_tensors():
                existing[tensor_name].copy_(tensor)
        return Moved(sums=lambda: sums_of(course, existing))

    return move
