"""Configure nginx to serve a folder as fast as the machine allows: what the benchmark and the tests download from.

Part of `bench._source`; standard library only. sendfile, no log of accesses. Debian's binary is enough,
unpacked anywhere: every path it would write to is set.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SLOW_BYTES_PER_SECOND", "NginxSettings", "find_nginx", "nginx_configuration"]

SLOW_BYTES_PER_SECOND = 90 << 20
"""Of one connection below `/slow/`, as object stores pace theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxSettings:
    """Choose what is served and where.

    Attributes:
        root: The folder that is served.
        scratch: A folder for what nginx writes.
        port: Of plain HTTP, on 127.0.0.1.
        tls_port: Of HTTPS; None: none.
        certificate: PEM of the chain and its key, with `tls_port`.
        workers: Processes that serve, under one that does not; 0: a single one.
    """

    root: Path
    scratch: Path
    port: int
    tls_port: int | None = None
    certificate: Path | None = None
    workers: int = 0


def find_nginx() -> str | None:
    """Return the path of nginx: on PATH, or where the Makefile unpacks it, beside the virtual environment."""
    unpacked = Path(sys.prefix).resolve().parent / ".venv-nginx" / "usr" / "sbin" / "nginx"
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or (str(unpacked) if unpacked.is_file() else None)


def nginx_configuration(settings: NginxSettings) -> str:
    """Return the text of a configuration file; run it with `nginx -p SCRATCH -c FILE`."""
    spread = " reuseport" if settings.workers else ""  # or one worker may take all connections
    listen = f"listen 127.0.0.1:{settings.port} backlog=1024{spread};"
    if settings.tls_port is not None:
        listen += f"""
    listen 127.0.0.1:{settings.tls_port} ssl;
    ssl_certificate {settings.certificate};
    ssl_certificate_key {settings.certificate};
    ssl_protocols TLSv1.3;"""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    scratch = "\n  ".join(f"{kind}_temp_path {settings.scratch}/{kind};" for kind in kinds)
    processes = "master_process off;"
    if settings.workers:
        # Who may read the scratch folder here is whoever runs this; else nginx's own choice is a user who may not.
        processes = f"worker_processes {settings.workers};" + (" user root;" if os.geteuid() == 0 else "")
    return f"""daemon off;
{processes}
pid {settings.scratch}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  sendfile_max_chunk 2m;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  {scratch}
  server {{
    {listen}
    root {settings.root};
    location /slow/ {{ alias {settings.root}/; limit_rate {SLOW_BYTES_PER_SECOND}; }}
  }}
}}
"""
