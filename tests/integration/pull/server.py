"""An HTTP server of objects in memory that says what it was asked for and does what a test wants between two pieces."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 16 << 10


@dataclass
class RangeServer:
    """Serve objects by path, ranges and If-Match included.

    Attributes:
        objects: What there is, by path without the leading slash. Replacing one changes its ETag.
        denied: Paths that are answered with 403.
        pages: Paths of which it says that they are text/html.
        asked: Every range that was sent whole: path, start, end.
        with_etags: Whether objects have ETags.
        before_piece: Called before each piece of a body is sent with the path and the bytes sent so far, of all bodies.
            What it raises ends the connection.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    with_etags: bool = True
    before_piece: Callable[[str, int], None] = lambda path, sent: None
    url: str = ""
    sent: int = 0

    def __enter__(self):
        server = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.answer(self)

            def do_HEAD(self):
                server.answer(self)

            def log_message(self, *arguments: object):
                pass

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.handle_error = lambda *arguments: None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *arguments: object):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def etag(self, path: str) -> str:
        return f'"{hashlib.md5(self.objects[path]).hexdigest()}"'

    def answer(self, request) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        data = self.objects.get(path)
        if data is None or path in self.denied:
            self._refuse(request, 403 if path in self.denied else 404)
            return
        etag = self.etag(path)
        if request.headers.get("If-Match", etag) != etag:
            self._refuse(request, 412)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        start, end = 0, len(data)
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        request.send_response(206 if asked else 200)
        if path in self.pages:
            request.send_header("Content-Type", "text/html; charset=utf-8")
        if self.with_etags:
            request.send_header("ETag", etag)
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        request.send_header("Content-Length", str(end - start))
        request.end_headers()
        if request.command == "GET":
            self._send(request, path, data, start, end)

    def _refuse(self, request, status: int) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send(self, request, path: str, data: bytes, start: int, end: int) -> None:
        for at in range(start, end, PIECE_BYTES):
            with self._lock:
                sent = self.sent
            self.before_piece(path, sent)
            piece = data[at : min(at + PIECE_BYTES, end)]
            request.wfile.write(piece)
            with self._lock:
                self.sent += len(piece)
        with self._lock:
            self.asked.append((path, start, end))
