"""OpenStack Swift with its S3 interface, all on one machine and in one folder: `python swift_main.py FOLDER PORT`.

Run by the Python of Swift's own virtual environment. Forks the four servers a cluster is made of; needs neither root
nor a service beside it, but a file system with user attributes (`user.*`) under FOLDER. Keys: `test:tester`,
`testsecret`; path style.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import io
import os
import signal
import socket
import sys
from pathlib import Path

_STORES = ("object", "container", "account")
_PIPELINE = "catch_errors proxy-logging listing_formats s3api tempauth copy slo dlo versioned_writes proxy-logging"
_FILTERS = {"listing_formats": "listing_formats", "s3api": "s3api", "copy": "copy", "slo": "slo", "dlo": "dlo"}
_FILTERS |= {"catch_errors": "catch_errors", "proxy-logging": "proxy_logging", "versioned_writes": "versioned_writes"}


def main(folder: Path, port: int) -> None:
    """Write the configuration, then run until this process is killed."""
    user = getpass.getuser()
    (folder / "disk" / "d1").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = s\nswift_hash_path_prefix = p\n")
    configuration = {"proxy": _proxy(folder, port, user)}
    for store in _STORES:
        own = _free_port()
        _make_ring(folder, store, own)
        configuration[store] = _store(folder, store, own, user)
    children = []
    for name, text in configuration.items():
        path = folder / f"{name}.conf"
        path.write_text(text)
        children.append(_fork(path, f"{name}-server", folder))
    os.waitpid(-1, 0)  # one that ends makes the others useless
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    sys.exit("one of Swift's servers ended")


def _fork(path: Path, server: str, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the parent
    import swift.common.utils as utils
    from swift.common import constraints, storage_policy, wsgi

    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    storage_policy.reload_storage_policies()
    constraints.reload_constraints()
    sys.exit(wsgi.run_wsgi(str(path), server))


def _make_ring(folder: Path, store: str, port: int) -> None:
    from swift.cli import ringbuilder

    builder = str(folder / f"{store}.builder")
    for words in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            ringbuilder.main(["swift-ring-builder", builder, *words])


def _store(folder: Path, store: str, port: int, user: str) -> str:
    return f"""[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder / "disk"}
mount_check = false
log_name = {store}
log_level = WARNING

[pipeline:main]
pipeline = {store}-server

[app:{store}-server]
use = egg:swift#{store}
"""


def _proxy(folder: Path, port: int, user: str) -> str:
    filters = "".join(f"\n[filter:{name}]\nuse = egg:swift#{egg}\n" for name, egg in _FILTERS.items())
    return f"""[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = WARNING

[pipeline:main]
pipeline = {_PIPELINE} proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 60

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testsecret .admin
{filters}"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
