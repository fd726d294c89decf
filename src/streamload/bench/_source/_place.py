"""Serve files in memory by a static server, for the source benchmark.

Part of `bench._source`; stdlib only. nginx serves files with `sendfile`: no other server costs so little beside the
client that is measured.
"""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..._machine import usable_cpus
from .._result import BenchError
from ._nginx import NginxSettings, find_nginx, nginx_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["serve"]

_START_SECONDS = 10.0


@contextmanager
def serve(objects: Path, scratch: Path) -> Iterator[str]:
    """Serve a directory on a free port of the loopback device until left; gives the server's URL.

    Args:
        objects: What it serves; a subdirectory stands for a bucket.
        scratch: An empty directory for the server's own files.

    Raises:
        BenchError: There is no nginx, or it does not start.
    """
    program = find_nginx()
    if program is None:
        raise BenchError("no nginx was found to serve the objects; install it (apt install nginx-light), or give a URL")
    port = _free_port()
    configuration = nginx_configuration(NginxSettings(root=objects, scratch=scratch, port=port, workers=usable_cpus()))
    (scratch / "nginx.conf").write_text(configuration, encoding="utf-8")
    with (scratch / "nginx.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "-p", str(scratch), "-c", str(scratch / "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
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
