"""Object stores for the tests: Swift, which checks signatures; moto, which is quick to start; nginx, which is fast."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .fault_proxy import FaultProxy
from .processes import accepts, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, SECRET = "test:tester", "testsecret"
_MAIN = Path(__file__).with_name("swift_main.py")


class ObjectStore:
    """An S3 endpoint and the keys it takes.

    Attributes:
        endpoint: Its URL, where objects are read.
        key: Access key.
        secret: Secret key.
        ca_file: Of the authority that signed its certificate; "" over plain HTTP.
    """

    def __init__(self, endpoint: str, key: str = KEY, secret: str = SECRET) -> None:
        self.endpoint = endpoint
        self.key = key
        self.secret = secret
        self.ca_file = ""
        self._client: Any = None
        self._buckets: set[str] = set()

    def seen_at(self, endpoint: str, ca_file: str = "") -> ObjectStore:
        """The same store where a proxy stands before it; writing goes on as before."""
        seen = copy.copy(self)
        seen._client = self.client
        seen.endpoint, seen.ca_file = endpoint, ca_file
        return seen

    def options(self, **changed: object) -> dict[str, object]:
        """`storage_options` as users of s3fs write them."""
        client = {"region_name": "us-east-1"} | ({"verify": self.ca_file} if self.ca_file else {})
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": self.endpoint,
            "client_kwargs": client,
            "config_kwargs": {"s3": {"addressing_style": "path"}},
            **changed,
        }

    def put(self, bucket: str, name: str, data: bytes) -> str:
        """Write an object, its bucket too where it is missing; return its `s3://` URL."""
        if bucket not in self._buckets:
            errors = self.client.exceptions
            with contextlib.suppress(errors.BucketAlreadyOwnedByYou, errors.BucketAlreadyExists):
                self.client.create_bucket(Bucket=bucket)
            self._buckets.add(bucket)
        self.client.put_object(Bucket=bucket, Key=name, Body=data)
        return f"s3://{bucket}/{name}"

    def put_folder(self, bucket: str, folder: Path, prefix: str = "model") -> str:
        """Write every file of a folder; return the `s3://` URL of the prefix they are under."""
        for path in sorted(folder.iterdir()):
            self.put(bucket, f"{prefix}/{path.name}", path.read_bytes())
        return f"s3://{bucket}/{prefix}"

    def remove(self, bucket: str, name: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=bucket, Key=name)

    @property
    def client(self) -> Any:  # botocore has no types
        """A client of botocore's, made when it is first needed."""
        if self._client is None:
            from botocore.config import Config
            from botocore.session import Session

            self._client = Session().create_client(
                "s3",
                region_name="us-east-1",
                endpoint_url=self.endpoint,
                aws_access_key_id=self.key,
                aws_secret_access_key=self.secret,
                config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
            )
        return self._client

    def close(self) -> None:
        """Close the client's connections."""
        if self._client is not None:
            self._client.close()


@contextlib.contextmanager
def running_swift(folder: Path) -> Iterator[ObjectStore]:
    """Run Swift; skips where its virtual environment is missing or files have no user attributes."""
    python = Path(sys.prefix).resolve().parent / ".venv-swift" / "bin" / "python"
    if not python.is_file():
        pytest.skip("no .venv-swift: `make test` sets it up")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.setxattr(folder, "user.streamload", b"x")
    except OSError:
        pytest.skip(f"{folder}: no user attributes on this file system, where Swift keeps what it knows of an object")
    port = free_port()
    command = [str(python), "-I", str(_MAIN), str(folder), str(port)]
    with running(command, folder / "log", lambda: _answers(f"http://127.0.0.1:{port}/healthcheck")):
        store = ObjectStore(f"http://127.0.0.1:{port}")
        with contextlib.closing(store):
            yield store


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            return found.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False


@contextlib.contextmanager
def behind_tls(store: ObjectStore, folder: Path) -> Iterator[ObjectStore]:
    """The same store behind HTTPS, with a certificate of an authority that nobody knows."""
    folder.mkdir(parents=True, exist_ok=True)
    context, ca_file, _ = make_certificate(folder)
    with FaultProxy(store.endpoint.rpartition("/")[2], tls=context) as proxy:
        yield store.seen_at(proxy.url, str(ca_file))


def make_certificate(folder: Path) -> tuple[ssl.SSLContext, Path, Path]:
    """Make an authority and a certificate for 127.0.0.1; return a server's context, the CA file, the server's PEM."""
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return context, folder / "ca.pem", folder / "server.pem"


@contextlib.contextmanager
def running_moto() -> Iterator[ObjectStore]:
    """Run moto in this process; it checks no signature, and reads a whole object for every range of it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with contextlib.closing(ObjectStore(f"http://{host}:{port}", "testing", "testing")) as store:
            yield store
    finally:
        server.stop()


@dataclass(frozen=True)
class WebServer:
    """nginx over a folder in memory.

    Attributes:
        root: The folder; what is written there is served.
        url: Of plain HTTP, without a slash at the end; below `/slow/` each connection is paced.
        tls_url: Of HTTPS.
        ca_file: Of its certificate's authority.
    """

    root: Path
    url: str
    tls_url: str
    ca_file: str


@contextlib.contextmanager
def running_nginx(folder: Path) -> Iterator[WebServer]:
    """Run nginx over a folder in /dev/shm; skips where there is no nginx."""
    from streamload.bench._source._nginx import NginxSettings, find_nginx, nginx_configuration

    nginx = find_nginx()
    if nginx is None:
        pytest.skip("no nginx on PATH, and `make test` found no apt-get to fetch it with")
    folder.mkdir(parents=True, exist_ok=True)
    shared = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="streamload-test-", dir=shared if os.access(shared, os.W_OK) else folder))
    root.chmod(0o755)
    try:
        _, ca_file, pem = make_certificate(folder)
        port, tls_port = free_port(), free_port()
        settings = NginxSettings(root=root, scratch=folder, port=port, tls_port=tls_port, certificate=pem)
        configuration = folder / "nginx.conf"
        configuration.write_text(nginx_configuration(settings))
        command = [nginx, "-p", str(folder), "-c", str(configuration), "-e", "stderr"]
        with running(command, folder / "log", lambda: accepts(port)):
            yield WebServer(root, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}", str(ca_file))
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def slow_link(upstream: str, *, bytes_per_second: float = 100e6, latency_seconds: float = 0.02) -> Iterator[str]:
    """Put a link before a server ("http://127.0.0.1:PORT"); yields the URL at its near end."""
    from streamload.bench._source import _link

    words = [str(os.getpid()), upstream.rpartition("/")[2], str(bytes_per_second), str(latency_seconds)]
    command = [sys.executable, "-I", _link.__file__, *words]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
