"""What only a server shows: TLS and its authorities in the native engine, per-connection pacing, flipped bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from streamload import StreamOptions
from streamload._sources import open_source
from streamload.errors import ChecksumError, SourceError
from streamload.testing import LlamaShape, SourceTests, make_checkpoint

from ..servers.fault_proxy import Fault, FaultProxy
from ..servers.loads import WAYS, load_range, short_options
from ..servers.stores import make_certificate

DATA = bytes(range(256)) * 5000
OPTIONS = short_options()
pytestmark = pytest.mark.slow


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def tls_origin(origin, tmp_path_factory):
    """The origin behind HTTPS with a private authority: (proxy, CA file)."""
    context, ca_file, _ = make_certificate(tmp_path_factory.mktemp("authority"))
    with FaultProxy(origin.url.rpartition("/")[2], tls=context) as proxy:
        yield proxy, str(ca_file)


@pytest.fixture(autouse=True)
def _no_faults_left(request):
    if "tls_origin" in request.fixturenames:
        request.getfixturevalue("tls_origin")[0].set()


class TestNginxSource(SourceTests):
    """Files of a web server keep what a source promises, over HTTP."""

    scheme = "url"

    @pytest.fixture(autouse=True)
    def _server(self, nginx):
        self.server = nginx

    def make_source(self, data):
        (self.server.root / "acceptance").write_bytes(data)
        return open_source(f"{getattr(self.server, self.scheme)}/acceptance", storage_options=self.storage_options())

    def storage_options(self):
        return {}


class TestNginxTlsSource(TestNginxSource):
    """The same over HTTPS, whose authority has to be named."""

    scheme = "tls_url"

    def storage_options(self):
        return {"verify": self.server.ca_file}


def test_a_named_authority_is_trusted(tls_origin, origin, way):
    proxy, ca_file = tls_origin
    with open_source(proxy.url + origin.put("tls", DATA), storage_options={"verify": ca_file}) as source:
        found, stats = load_range(source, 7, len(DATA), OPTIONS, way=way)
    assert found == DATA[7:]
    assert stats.retries == 0


def test_faults_within_tls_are_overcome(tls_origin, origin, way):
    proxy, ca_file = tls_origin
    url = proxy.url + origin.put("tls", DATA)
    with open_source(url, storage_options={"verify": ca_file}, options=OPTIONS) as source:
        for kind in ("reset", "close", "stall"):
            proxy.set(Fault(kind, at=0.4))
            found, _ = load_range(source, 7, len(DATA), OPTIONS, way=way)
            assert found == DATA[7:], kind


def test_the_native_engine_checks_certificates_by_itself(tls_origin, origin, tmp_path):
    proxy, ca_file = tls_origin
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Path(ca_file).read_bytes())
    with open_source(proxy.url + origin.put("tls", DATA), storage_options={"verify": str(bundle)}) as source:
        source.close()
        (tmp_path / "other").mkdir()
        _, other, _ = make_certificate(tmp_path / "other")
        bundle.write_bytes(other.read_bytes())
        again = source.reopen()
        with again, pytest.raises(SourceError, match=r"(?i)certificat"):
            load_range(again, 300_000, len(DATA), OPTIONS, way="native")


def test_a_server_that_went_away_is_given_up_in_time(origin, way):
    options = short_options(retry_seconds=1.0)
    with FaultProxy(origin.url.rpartition("/")[2]) as proxy:
        source = open_source(proxy.url + origin.put("away", DATA), options=options)
    with source, pytest.raises(SourceError) as caught:
        load_range(source, 300_000, len(DATA), options, way=way)
    assert caught.value.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT)


def test_connections_that_are_paced_add_up(nginx, way):
    (nginx.root / "paced").write_bytes(DATA * 8)
    options = StreamOptions(chunk_bytes=1 << 20, staging_bytes=16 << 20)
    with open_source(f"{nginx.url}/slow/paced", options=options) as source:
        found, _ = load_range(source, 0, source.nbytes, options, way=way)
    assert found == DATA * 8


def test_a_request_that_is_slow_is_sent_twice(origin, fault_proxy):
    data, options = DATA * 12, short_options(stall_seconds=30.0)
    slow_seconds = 0.9 * options.chunk_bytes / 20_000
    with open_source(fault_proxy.url + origin.put("hedged", data), options=options) as source:
        fault_proxy.set(Fault("trickle", at=0.1, rate=20_000, after=40))
        found, stats = load_range(source, 0, len(data), options, way="native")
    assert found == data
    assert stats.hedges >= 1
    assert stats.seconds < slow_seconds, "nobody waited for the slow one"
    assert len(fault_proxy.ranged) == stats.requests


def test_a_flipped_byte_is_told_by_checksums(origin, fault_proxy, tmp_path):
    torch = pytest.importorskip("torch")
    st = pytest.importorskip("streamload.torch")
    from click.testing import CliRunner

    from streamload.cli import main

    shape = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, intermediate=176, vocab=100)
    folder = make_checkpoint(tmp_path, shape, shards=2)
    assert CliRunner().invoke(main, ["manifest", str(folder)]).exit_code == 0
    for path in folder.iterdir():
        origin.put(f"summed/{path.name}", path.read_bytes())
    url, options = f"{fault_proxy.url}/summed", StreamOptions(verify=True)
    plain = st.load_file(folder / "model-00002-of-00002.safetensors")
    found = st.load_file(url, options=options)
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
    opening = len([request for request in fault_proxy.ranged if request.range.startswith("bytes=0-")])
    fault_proxy.set(Fault("flip", at=0.95, times=0, after=opening))
    with pytest.raises(ChecksumError):
        st.load_file(url, options=options)
