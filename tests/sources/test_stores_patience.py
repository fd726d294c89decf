"""Servers that trickle or flood bytes hold nobody for ever, and take no memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import tracemalloc

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import open_source
from streamload.errors import SourceError

from ..servers.loop_server import LoopServer, read_head
from .test_stores_http import DATA, part

SHORT = StreamOptions(stall_seconds=0.3, retry_seconds=0.6)
PARTIAL = b"HTTP/1.1 206 Partial Content\r\n"


class Trickle(LoopServer):
    """Answer with one text, then with another again and again, for as long as the client stays."""

    def __init__(self, first: bytes, then: bytes, pause: float) -> None:
        self.first, self.then, self.pause = first, then, pause
        super().__init__()

    async def handle(self, reader, writer) -> None:
        await read_head(reader)
        writer.write(self.first)
        gone = False
        while not gone:
            writer.write(self.then)
            await writer.drain()
            with contextlib.suppress(asyncio.TimeoutError):
                gone = await asyncio.wait_for(reader.read(1), self.pause) == b""


def chunked() -> bytes:
    body = DATA[: 256 << 10]
    head = f"Content-Range: bytes 0-{len(body) - 1}/{len(DATA)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return PARTIAL + head + b"%x\r\n%b\r\n" % (len(body), body)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then", "pause"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        (PARTIAL + b"X-Header: ", b"x", 0.1),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 60000\r\n\r\n", b"x", 0.1),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 60000\r\n\r\n", b"x", 0.1),
        (PARTIAL + b"Content-Range: bytes 0-262143/1024000\r\nContent-Length: 262144\r\n\r\n", b"x", 0.1),
        (chunked(), b"10000\r\n" + bytes(65536) + b"\r\n", 0.001),
        (chunked() + b"0\r\n", b"Trailer: " + b"x" * 60000 + b"\r\n", 0.001),
    ],
    ids=["continue", "head", "error", "redirect", "body", "chunks", "trailer"],
)
def test_server_that_never_ends_is_given_up(first, then, pause):
    with Trickle(first, then, pause) as server:
        tracemalloc.start()
        try:
            began = time.monotonic()
            with pytest.raises(SourceError):
                open_source(f"{server.url}/x", options=SHORT)
            assert time.monotonic() - began < 10, "it takes a second or two; without a deadline, for ever"
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()


class Silent(LoopServer):
    """Give out an index, and interrupt the client once it waits for two shards, which never come."""

    def __init__(self, first: bytes) -> None:
        self.first = first
        self.waiting = 0
        super().__init__()

    async def handle(self, reader, writer) -> None:
        shards = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
        while head := await read_head(reader):
            if head.path.endswith(".json"):
                writer.write(part(head, json.dumps(shards).encode(), ETag='"1"'))
                await writer.drain()
                continue
            writer.write(self.first)
            await writer.drain()
            self.waiting += 1
            if self.waiting == 2:
                os.kill(os.getpid(), signal.SIGINT)
            await reader.read()


@pytest.mark.parametrize("tier", [False, True])
@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 503 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"], ids=["silent", "busy"]
)
def test_interrupted_open_ends_at_once(first, tier, tmp_path):
    options = StreamOptions(cache_dir=str(tmp_path)) if tier else None
    with Silent(first) as server:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            streamload.open(f"{server.url}/m.safetensors.index.json", options=options)
        assert time.monotonic() - began < 10, "it takes no time; waiting for tries takes a minute"


def test_interrupted_pull_ends_at_once(tmp_path):
    with Silent(b"") as server:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            streamload.pull(f"{server.url}/m/m.safetensors.index.json", tmp_path)
        assert time.monotonic() - began < 10, "it takes no time; waiting for tries takes a minute"
