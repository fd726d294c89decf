"""An HTTP/1.1 server on loopback that runs in a thread of the tests: what the origin and the proxies share.

Read next: `origin` for objects in memory, `fault_proxy` for what can go wrong on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

HEAD_LIMIT = 64 << 10


@dataclass(frozen=True)
class Head:
    """The start line and the header lines of a request or an answer, in order."""

    start: str
    lines: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """The value of a header, whatever its case."""
        return next((value for key, value in self.lines if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str | None) -> Head:
        """The same with one header replaced where it stood, or left out."""
        kept = [(key, old if key.lower() != name.lower() else value) for key, old in self.lines]
        return Head(self.start, tuple((key, text) for key, text in kept if text is not None))

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    @property
    def path(self) -> str:
        """Without the query string, which may carry a signature."""
        return urlsplit(self.target).path

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    def to_bytes(self) -> bytes:
        text = "".join(f"{key}: {value}\r\n" for key, value in self.lines)
        return f"{self.start}\r\n{text}\r\n".encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read one head; None where the other side closed instead."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    start, *lines = raw[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(start, tuple((key.strip(), value.strip()) for key, _, value in pairs))


def answer(status: int, reason: str, body: bytes = b"", **headers: str) -> bytes:
    """A whole answer; header names are given with underscores."""
    lines = [(key.replace("_", "-"), value) for key, value in headers.items()]
    return Head(f"HTTP/1.1 {status} {reason}", (*lines, ("Content-Length", str(len(body))))).to_bytes() + body


class LoopServer:
    """Serve `handle` on a free port of 127.0.0.1 from a thread with an event loop, until closed.

    A context manager. `handle` is called for each connection and may end it as it likes.
    """

    def __init__(self, *, tls=None) -> None:
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task] = set()
        self.port = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name=type(self).__name__, daemon=True)
        self._thread.start()
        started.wait()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End every connection and the thread; again does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(started))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=self._tls, limit=HEAD_LIMIT, backlog=512
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self.handle(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass  # the other side went away, which is half of what these servers are for
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(ConnectionError, OSError):
                writer.close()
