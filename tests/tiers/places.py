"""A store to read from, and a process that forks loads of it which may be killed.

Run as a program it is the latter: it reads commands, forks one process for each, and tells how they ended. What it
forks from has no threads, so that nothing is left half-done in the children.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

CHUNK_BYTES = 64 << 10
HEAD_BYTES = 4096


def content(nbytes: int, seed: int = 0) -> bytes:
    """Bytes in which no two places are alike."""
    blocks = (hashlib.blake2b(f"{seed}:{i}".encode()).digest() for i in range(nbytes // 64 + 1))
    return b"".join(blocks)[:nbytes]


class RangeServer:
    """Serve objects by ranges and count: requests, and bytes of bodies."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()  # guards the rest
        self.requests = 0
        self.sent_bytes = 0
        self.resets = 0  # what began before the last one counts no more
        self.most_bytes: int | None = None  # once this many were sent, `exhausted` is called, in the midst of a body
        self.exhausted = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_: object):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object):
                pass  # a client was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def put(self, name: str, data: bytes) -> str:
        self.objects[name] = data
        return self.url(name)

    def reset(self) -> None:
        with self.lock:
            self.requests = self.sent_bytes = 0
            self.resets += 1
            self.most_bytes = None

    def answer(self, handler) -> None:
        data = self.objects.get(urlsplit(handler.path).path.lstrip("/"))
        with self.lock:
            self.requests += 1
            resets = self.resets
        if data is None:
            handler.send_response(404)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        if handler.headers.get("If-Match", etag) != etag:
            handler.send_response(412)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        start, end = (int(match[1]), min(int(match[2]) + 1, len(data))) if match else (0, len(data))
        handler.send_response(206 if match else 200)
        if match:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(end - start))
        handler.end_headers()
        self._send(handler.wfile, data[start:end], resets)

    def _send(self, out, body: bytes, resets: int) -> None:
        for at in range(0, len(body), 16384):
            piece = body[at : at + 16384]
            with self.lock:
                if resets != self.resets:
                    return
                self.sent_bytes += len(piece)
                spent = self.most_bytes is not None and self.sent_bytes >= self.most_bytes
                if spent:
                    self.most_bytes = None
            if spent:
                self.exhausted()
            out.write(piece)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class RangeSource:
    """Read an object of a `RangeServer`: the least that a source of a store has."""

    read_concurrency = 4

    def __init__(self, url: str) -> None:
        self.url = url.partition("?")[0]
        self.etag = ""
        self.closed = False
        self.head, self.etag, self.nbytes = self._get(0, HEAD_BYTES)

    def _get(self, start: int, end: int) -> tuple[bytes, str, int]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc)
        headers = {"Range": f"bytes={start}-{end - 1}"} | ({"If-Match": self.etag} if self.etag else {})
        connection.request("GET", parts.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status == 404:
            raise FileNotFoundError(self.url)
        assert answer.status == 206, answer.status
        return body, answer.headers["ETag"], int(answer.headers["Content-Range"].rpartition("/")[2])

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.nbytes - offset)]
        if len(view):
            view[:] = self._get(offset, offset + len(view))[0]
        return len(view)

    def forget_head(self) -> None:
        self.head = b""

    def close(self) -> None:
        self.closed = True


def choose(**chosen: object) -> SimpleNamespace:
    """Options as far as tiers look at them."""
    names = ("cache_dir", "cache_bytes", "memory_dir", "memory_bytes")
    return SimpleNamespace(**{name: None for name in names} | chosen)


def read_all(source, *, start: int = 0, end: int | None = None, threads: int = 4) -> bytes:
    """Read a source by chunks, from several threads."""
    data = bytearray((source.nbytes if end is None else end) - start)
    view = memoryview(data)

    def read(at: int) -> None:
        piece = view[at : at + CHUNK_BYTES]
        assert source.read_into(start + at, piece) == len(piece)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(0, len(data), CHUNK_BYTES)))
    return bytes(data)


def load(command: dict) -> dict[str, object]:
    """Open one object and read all of it, through the tiers that the command names."""
    from streamload._sources._tiers import attach, local_file

    if command.get("engine"):
        return load_by_engine(command)
    if command.get("torch"):
        return load_by_torch(command)
    source = attach(RangeSource(command["url"]), choose(**command["options"]))
    kind = type(source).__name__
    if not command.get("map"):
        digest = hashlib.sha256(read_all(source)).hexdigest()
        source.close()
        return {"kind": kind, "digest": digest}
    file = source if kind == "CachedFile" else local_file(source)
    assert file is not None
    mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    digest = hashlib.sha256(mapped).hexdigest()
    _tell(kind="ready", pid=os.getpid(), digest=digest, path=file.path)
    while True:
        signal.pause()  # until it is killed


def load_by_engine(command: dict) -> dict[str, object]:
    """Read one object with the copy engine, from where it lies now; what is put behind the load is there at the end."""
    from array import array
    from dataclasses import replace

    from streamload import StreamOptions
    from streamload._checksums import UNKNOWN, plan_sums
    from streamload._engine import CopyEngine, open_device
    from streamload._plan import make_reading_plan
    from streamload._sources import open_source

    options = StreamOptions(chunk_bytes=CHUNK_BYTES, **command["options"])
    with open_source(command["url"], options=options) as source, CopyEngine(open_device("cpu"), options) as engine:
        ranges = [(0, 0, source.nbytes)]
        plan = make_reading_plan(ranges, chunk_bytes=CHUNK_BYTES)
        plan = replace(plan, sums=plan_sums(plan, ranges)[0], expected=array("Q", [UNKNOWN]))
        with engine.submit(plan, [source]) as ticket:
            ticket.wait()
            (crc,) = ticket.sums()
        kind = type(source).__name__
    return {"kind": kind, "digest": f"{crc:08x}"}


def load_by_torch(command: dict) -> dict[str, object]:
    """Load a checkpoint to the CPU; with `map` hold it until the process is killed."""
    from streamload import StreamOptions
    from streamload.torch import load_file

    tensors = load_file(command["url"], "cpu", options=StreamOptions(**command["options"]))
    total = hashlib.sha256()
    for tensor in tensors.values():
        total.update(memoryview(tensor.numpy()))
    if command.get("map"):
        _tell(kind="ready", pid=os.getpid(), digest=total.hexdigest(), path="")
        while True:
            signal.pause()
    return {"kind": "torch", "digest": total.hexdigest()}


class Nursery:
    """Fork loads from a process that has nothing but them to do."""

    def __init__(self, *, torch: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *(["torch"] if torch else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ended: dict[int, dict[str, object]] = {}
        self._ready: list[dict[str, object]] = []

    def start(self, **command: object) -> int:
        """Start a load; return its process."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._next("started")["pid"]

    def wait_until_ready(self, count: int) -> list[dict[str, object]]:
        """Wait until so many loads have mapped what they loaded; they go on holding it until they are killed."""
        return [self._next("ready") for _ in range(count)]

    def wait(self, pid: int) -> dict[str, object]:
        """Wait for a load to end: `status`, and `result` where it was not killed."""
        while pid not in self._ended:
            self._next("ended")
        return self._ended.pop(pid)

    def _next(self, kind: str) -> dict[str, object]:
        if kind == "ready" and self._ready:
            return self._ready.pop()
        while True:
            told = json.loads(self._process.stdout.readline())
            if told["kind"] == "ended":
                self._ended[told["pid"]] = told
                assert kind != "ready", told
            if told["kind"] == "ready" != kind:
                self._ready.append(told)
            if told["kind"] == kind:
                return told

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _tell(**what: object) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())  # one write: several processes tell


def _run(command: dict) -> None:
    status, result = 1, None
    try:
        result = load(command)
        status = 0
    except BaseException as error:
        result = repr(error)
    _tell(kind="ended", pid=os.getpid(), status=status, result=result)
    os._exit(status)


def _reap(*_: object) -> None:
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if os.WIFSIGNALED(status):
                _tell(kind="ended", pid=pid, status=-os.WTERMSIG(status), result=None)
    except ChildProcessError:
        return


def main() -> None:
    """Fork a process for each command."""
    import streamload._sources._tiers

    if "torch" in sys.argv:
        import streamload.torch  # noqa: F401 - likewise
    signal.signal(signal.SIGCHLD, _reap)
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run(json.loads(line))
        _tell(kind="started", pid=pid)


if __name__ == "__main__":
    main()
