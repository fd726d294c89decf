"""Servers as fixtures, each started once for a session and only where a test asks for it.

swift           an S3 store that checks signatures (`ObjectStore`)
swift_tls       the same behind HTTPS with a private authority
moto            an S3 store in this process, started at once, which checks nothing
nginx           a fast server of files in memory (`WebServer`)
origin          objects in memory over HTTP (`Origin`)
fault_proxy     what breaks on the way to `origin`; nothing is set at the start of a test (`FaultProxy`)
chromium        a browser without a window
swift_faults    the same on the way to `swift`: (proxy, the store as seen through it)
"""

from __future__ import annotations

import pytest

from .browser import running_chromium
from .fault_proxy import FaultProxy
from .origin import Origin
from .stores import behind_tls, running_moto, running_nginx, running_swift


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    with running_swift(tmp_path_factory.mktemp("swift")) as store:
        yield store


@pytest.fixture(scope="session")
def swift_tls(swift, tmp_path_factory):
    with behind_tls(swift, tmp_path_factory.mktemp("tls")) as store:
        yield store


@pytest.fixture(scope="session")
def moto():
    with running_moto() as store:
        yield store


@pytest.fixture(scope="session")
def nginx(tmp_path_factory):
    with running_nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="session")
def origin():
    with Origin() as server:
        yield server


@pytest.fixture(scope="session")
def _origin_proxy(origin):
    with FaultProxy(origin.url.rpartition("/")[2]) as proxy:
        yield proxy


@pytest.fixture
def fault_proxy(_origin_proxy):
    _origin_proxy.set()
    yield _origin_proxy
    _origin_proxy.set()


@pytest.fixture(scope="session")
def _swift_proxy(swift):
    with FaultProxy(swift.endpoint.rpartition("/")[2]) as proxy:
        yield proxy


@pytest.fixture
def swift_faults(_swift_proxy, swift):
    _swift_proxy.set()
    yield _swift_proxy, swift.seen_at(_swift_proxy.url)
    _swift_proxy.set()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    with running_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
