"""Where the objects of the source benchmark are: a static server of its own over files in memory, or a URL.

Part of `bench._source`; stdlib only. nginx serves files with `sendfile`: no other server costs so little beside the
client that is measured.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._result import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["find_nginx", "serve"]

_START_SECONDS = 10.0
_CONF = """\
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  sendfile_max_chunk 2m;
  keepalive_requests 1000000;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  server {{ listen 127.0.0.1:{port}; root {objects}; }}
}}
"""


def find_nginx() -> str | None:
    """Return the path of nginx's program, or None."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def serve(objects: Path, scratch: Path, *, program: str | None = None) -> Iterator[str]:
    """Serve a directory on a free port of the loopback device until left; gives the server's URL.

    Args:
        objects: What it serves; a subdirectory stands for a bucket.
        scratch: An empty directory for the server's own files.
        program: Path of nginx; None looks for it.

    Raises:
        BenchError: There is no nginx, or it does not start.
    """
    program = program or find_nginx()
    if program is None:
        raise BenchError("no nginx was found to serve the objects; install it (apt install nginx-light), or give a URL")
    port = _free_port()
    (scratch / "nginx.conf").write_text(_CONF.format(root=scratch, port=port, objects=objects), encoding="utf-8")
    server = subprocess.Popen(
        [program, "-e", str(scratch / "start.log"), "-p", str(scratch), "-c", str(scratch / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(server, port, scratch)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, scratch: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    logs = [path.read_text(errors="replace") for path in scratch.glob("*.log")]
    said = " ".join(" ".join(logs).split())
    raise BenchError(f"nginx does not serve on port {port}: {said[-300:] or 'it said nothing'}")
