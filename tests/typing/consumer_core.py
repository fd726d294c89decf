"""How a user's code sees the core: checked with mypy --strict, never run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from typing_extensions import assert_type

import streamload
from streamload import Checkpoint, FormatError, Layer, Source, SourceError, StreamOptions, TensorInfo


def look_inside(path: str | Path) -> int:
    with streamload.open(path) as checkpoint:
        assert_type(checkpoint, Checkpoint)
        info = checkpoint["model.norm.weight"]
        assert_type(info, TensorInfo)
        assert_type(info.dtype, str)
        assert_type(info.shape, tuple[int, ...])
        assert_type(checkpoint.layers, tuple[Layer, ...])
        for name, tensor in checkpoint.items():
            assert_type(name, str)
            assert_type(tensor.end - tensor.start, int)
        return checkpoint.nbytes


def choose() -> StreamOptions:
    options = StreamOptions(chunk_bytes=1 << 20, direct_io=None)
    return dataclasses.replace(options, read_threads=4)


def look_into_a_store(url: str) -> list[str]:
    options = StreamOptions(stall_seconds=5, cache_dir="/nvme/models", offline=False)
    with streamload.open(url, storage_options={"key": "k", "anon": False}, options=options) as checkpoint:
        with checkpoint.reopen() as again:
            assert_type(again, Checkpoint)
        assert_type(checkpoint.open_beside("config.json"), Source)
        return [shard.url for shard in checkpoint.shards]


def explain(path: str) -> str:
    try:
        look_inside(path)
    except SourceError as error:
        assert_type(error.url, str)
        assert_type(error.offset, int | None)
        return f"{error.url} at {error.offset}"
    except FormatError as error:
        builtin: ValueError = error
        return str(builtin)
    return "fine"


class ZeroSource:
    """A source of one's own: it fits the protocol without inheriting."""

    url = "zero:"
    nbytes = 1 << 20

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)

    def close(self) -> None:
        pass


source: Source = ZeroSource()
