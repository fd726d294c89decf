"""A proxy that does to answers what networks and stores do to them, at a byte that can be chosen.

`Host` is passed on as it came, so that signatures made for the proxy's address verify behind it. Only ranged GETs meet
faults. Controlled from Python (`set`, `requests`) or by HTTP from other processes:

    GET /__set?kind=reset&at=0.5&times=1    takes the place of what was set before; kind= alone sets nothing
    GET /__stats                            every request so far, as JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import re
import socket
import struct
import termios
import threading
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from .loop_server import Head, LoopServer, answer, read_head

if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = 64 << 10
_REASONS = {
    400: "Bad Request",
    416: "Range Not Satisfiable",
    403: "Forbidden",
    404: "Not Found",
    412: "Precondition Failed",
    429: "Too Many Requests",
}
_REASONS |= {500: "Internal Server Error", 503: "Slow Down"}
_CODES = {
    400: "RequestTimeout",
    403: "AccessDenied",
    416: "InvalidRange",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    500: "InternalError",
}
BEFORE_HEAD = -1.0


@dataclass(frozen=True)
class Fault:
    """Choose what goes wrong.

    Attributes:
        kind: One of
            "reset" (RST), "close" (FIN, too early), "stall" (no more bytes, the connection stays), "trickle" (`rate`
            bytes a second from here on), "flip" (one byte is another): all at `at`;
            "status" (answers `status`, with `retry_after` seconds if given); "half" (half the body, and a
            Content-Length that agrees); "whole" (200 and the whole object); "longer" (that, and a byte more);
            "shifted" (Content-Range names another offset); "total" (Content-Range names another length); "etag"
            (another ETag).
        at: Where in the body, as a part of it; `BEFORE_HEAD` for "reset" and "stall" before anything is sent. From 1 on
            it counts bytes: a body that is shorter passes.
        times: How many ranged GETs meet it; 0 for all.
        after: How many ranged GETs pass before.
    """

    kind: str
    at: float = 0.5
    times: int = 1
    after: int = 0
    status: int = 503
    retry_after: float | None = None
    rate: int = 120_000


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it, and the fault it met ("" for none)."""

    method: str
    path: str
    range: str | None
    if_match: str | None
    authorized: bool
    fault: str


class FaultProxy(LoopServer):
    """Forward to `upstream` ("127.0.0.1:PORT"); with `tls`, an `ssl.SSLContext`, it ends TLS on its side."""

    def __init__(self, upstream: str, *, tls=None) -> None:
        self._upstream = upstream.split(":")
        self._lock = threading.Lock()  # guards all below
        self._faults: list[Fault] = []
        self._ranged = 0
        self._requests: list[Request] = []
        super().__init__(tls=tls)

    def set(self, *faults: Fault) -> None:
        """Meet the next ranged GETs with these, one after the other; forget what was set and seen before."""
        with self._lock:
            self._faults, self._ranged, self._requests = list(_spread(faults)), 0, []

    @property
    def requests(self) -> list[Request]:
        """Every request since `set`."""
        with self._lock:
            return list(self._requests)

    @property
    def ranged(self) -> list[Request]:
        """Every ranged GET since `set`."""
        return [request for request in self.requests if request.range and request.method == "GET"]

    async def handle(self, reader, writer) -> None:
        if not self._tls:  # asyncio's TLS never resumes with a limit of 0
            writer.transport.set_write_buffer_limits(0)
        upstream = None
        try:
            while head := await read_head(reader):
                if head.path.startswith("/__"):
                    writer.write(self._control(head))
                    await writer.drain()
                    continue
                upstream = upstream or await asyncio.open_connection(*self._upstream)
                if not await self._forward(head, reader, writer, upstream):
                    break
        finally:
            if upstream:
                upstream[1].close()

    def _control(self, head: Head) -> bytes:
        if head.path == "/__stats":
            return answer(200, "OK", json.dumps([asdict(request) for request in self.requests]).encode())
        given = dict(parse_qsl(urlsplit(head.target).query))
        kinds = {field.name: {"int": int, "str": str}.get(str(field.type), float) for field in fields(Fault)}
        fault = Fault(**{name: kinds[name](text) for name, text in given.items()}) if given.get("kind") else None
        self.set(*([fault] if fault else []))
        return answer(200, "OK")

    def _next_fault(self, head: Head) -> Fault | None:
        ranged = head.method == "GET" and head.get("range") is not None
        with self._lock:
            fault = None
            if ranged:
                if self._ranged < len(self._faults):
                    fault = self._faults[self._ranged]
                elif self._faults and self._faults[-1].times == 0:
                    fault = self._faults[-1]
                self._ranged += 1
            fault = fault if fault and fault.kind else None
            authorized = head.get("authorization") is not None
            seen = Request(head.method, head.path, head.get("range"), head.get("if-match"), authorized, "")
            self._requests.append(Request(**{**asdict(seen), "fault": fault.kind if fault else ""}))
        return fault

    async def _forward(self, head: Head, reader, writer, upstream) -> bool:
        """Forward one request and its answer; False where the connection ends with it."""
        fault = self._next_fault(head)
        if fault and fault.at == BEFORE_HEAD and fault.kind in ("reset", "stall"):
            return await self._break_off(fault, reader, writer)
        if fault and fault.kind == "status":
            extra = {} if fault.retry_after is None else {"Retry_After": f"{fault.retry_after:g}"}
            body = f"<Error><Code>{_CODES.get(fault.status, 'SlowDown')}</Code></Error>".encode()
            writer.write(answer(fault.status, _REASONS.get(fault.status, "Fault"), body, **extra))
            await writer.drain()
            return True
        if head.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = head.with_header("Expect", None)
        upstream[1].write(
            (head.with_header("Range", None) if fault and fault.kind in ("whole", "longer") else head).to_bytes()
        )
        await _copy(reader, upstream[1], int(head.get("content-length") or 0))
        got = await read_head(upstream[0])
        if got is None:
            return False
        return await self._answer(head, got, fault, reader, writer, upstream)

    async def _answer(self, head: Head, got: Head, fault: Fault | None, reader, writer, upstream) -> bool:
        length = 0 if head.method == "HEAD" or got.status in (204, 304) else int(got.get("content-length") or 0)
        if fault is None or got.status not in (200, 206):
            writer.write(got.to_bytes())
            if got.get("transfer-encoding"):
                await _copy_chunks(upstream[0], writer)
            await _copy(upstream[0], writer, length)
            return True
        writer.write(_changed(got, fault, length).to_bytes())
        cut = length // 2 if fault.kind == "half" else int(fault.at * (length if fault.at < 1 else 1))
        if cut > length:
            await _copy(upstream[0], writer, length)
            return True
        await _copy(upstream[0], writer, cut)
        if fault.kind == "half":
            upstream[1].close()
            return await self._wait_for_close(reader)
        if fault.kind in ("reset", "close", "stall"):
            return await self._break_off(fault, reader, writer)
        if fault.kind == "flip" and cut < length:
            writer.write(bytes([(await upstream[0].readexactly(1))[0] ^ 0x10]))
            cut += 1
        await _copy(upstream[0], writer, length - cut, rate=fault.rate if fault.kind == "trickle" else None)
        return True

    async def _break_off(self, fault: Fault, reader, writer) -> bool:
        if fault.kind == "stall":
            return await self._wait_for_close(reader)
        await _delivered(writer)
        if fault.kind == "reset":
            connection = writer.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False

    @staticmethod
    async def _wait_for_close(reader) -> bool:
        while await reader.read(_BLOCK):
            pass
        return False


def _spread(faults: Iterable[Fault]) -> Iterable[Fault]:
    """One entry for each ranged GET; what lasts for ever is the last."""
    for fault in faults:
        yield from [Fault("")] * fault.after
        yield from [fault] * max(1, fault.times)
        if fault.times == 0:
            return


def _changed(got: Head, fault: Fault, length: int) -> Head:
    """The head of the answer as the fault has it."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", got.get("content-range") or "")
    if fault.kind == "half":
        return got.with_header("Content-Length", str(length // 2))
    if fault.kind == "longer":
        return got.with_header("Content-Length", str(length + 1))
    if fault.kind == "etag":
        return got.with_header("ETag", '"' + "0" * 32 + '"')
    if match and fault.kind == "shifted":
        return got.with_header("Content-Range", f"bytes {int(match[1]) + 1}-{int(match[2]) + 1}/{match[3]}")
    if match and fault.kind == "total":
        return got.with_header("Content-Range", f"bytes {match[1]}-{match[2]}/{int(match[3]) + 1}")
    return got


async def _copy(reader, writer, nbytes: int, *, rate: int | None = None) -> None:
    """Pass `nbytes` on, at most `rate` a second."""
    while nbytes:
        data = await reader.read(min(nbytes, _BLOCK if rate is None else max(1, rate // 50)))
        if not data:
            raise ConnectionError("the upstream server ended early")
        writer.write(data)
        await writer.drain()
        nbytes -= len(data)
        if rate is not None:
            await _wait(len(data) / rate)


async def _copy_chunks(reader, writer) -> None:
    size = -1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        writer.write(line + await reader.readexactly(size + 2))


async def _delivered(writer) -> None:
    """Wait until the other side's system has what was sent: a reset drops what waits here."""
    await writer.drain()
    connection = writer.transport.get_extra_info("socket")
    for _ in range(500):
        waiting = bytearray(4)
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, waiting)
        if not any(waiting):
            return
        await _wait(0.001)


async def _wait(seconds: float) -> None:
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=seconds)
