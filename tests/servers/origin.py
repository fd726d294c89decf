"""Objects in memory behind HTTP: ranges, If-Match and ETags as object stores answer them, and nothing else."""

from __future__ import annotations

import hashlib
import re
import threading
from urllib.parse import unquote

from .loop_server import LoopServer, answer, read_head

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Origin(LoopServer):
    """Serve what `put` was given. Counts nothing: the proxy before it does."""

    def __init__(self, *, tls=None) -> None:
        self._lock = threading.Lock()  # guards objects
        self._objects: dict[str, tuple[bytes, str]] = {}
        super().__init__(tls=tls)

    def put(self, name: str, data: bytes) -> str:
        """Store an object, or replace it; return its path, which begins with a slash."""
        path = "/" + name.lstrip("/")
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        with self._lock:
            self._objects[path] = (bytes(data), etag)
        return path

    def remove(self, name: str) -> None:
        with self._lock:
            del self._objects["/" + name.lstrip("/")]

    async def handle(self, reader, writer) -> None:
        while head := await read_head(reader):
            with self._lock:
                found = self._objects.get(unquote(head.path))
            if head.method not in ("GET", "HEAD"):
                writer.write(answer(405, "Method Not Allowed"))
            elif found is None:
                writer.write(answer(404, "Not Found", b"<Error><Code>NoSuchKey</Code></Error>"))
            elif head.get("if-match") not in (None, "*", found[1]):
                writer.write(answer(412, "Precondition Failed"))
            else:
                self._send(writer, head, *found)
            await writer.drain()

    @staticmethod
    def _send(writer, head, data: bytes, etag: str) -> None:
        start, end, status, reason, extra = 0, len(data), 200, "OK", {}
        match = _RANGE.fullmatch(head.get("range") or "")
        if match and (match[1] or match[2]):
            if match[1]:
                start, end = int(match[1]), min(len(data), int(match[2]) + 1 if match[2] else len(data))
            else:
                start = max(0, len(data) - int(match[2]))
            if start >= end:
                writer.write(answer(416, "Range Not Satisfiable", Content_Range=f"bytes */{len(data)}"))
                return
            status, reason = 206, "Partial Content"
            extra = {"Content_Range": f"bytes {start}-{end - 1}/{len(data)}"}
        whole = answer(status, reason, b"", ETag=etag, Accept_Ranges="bytes", **extra)
        writer.write(whole.replace(b"Content-Length: 0\r\n", b"Content-Length: %d\r\n" % (end - start)))
        if head.method == "GET":
            writer.write(memoryview(data)[start:end])
