"""Authorities that the environment names are trusted by whoever reads: Python, and libcurl after it."""

from __future__ import annotations

import pytest

import streamload
from streamload._sources import open_source, open_store

from ..servers.origin import Origin
from ..servers.stores import make_certificate


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A server with a certificate of an authority of its own, and the file of that."""
    context, ca_file, _ = make_certificate(tmp_path_factory.mktemp("tls"))
    with Origin(tls=context) as server:
        yield server, ca_file


@pytest.fixture
def _no_authorities(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_authorities")
def test_file_of_the_environment_is_handed_to_the_native_engine(secure, monkeypatch, write, tmp_path):
    server, ca_file = secure
    data = write(tmp_path / "x.safetensors", "a", nbytes=1 << 20).read_bytes()
    url = server.url + server.put("m/x.safetensors", data)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with open_source(url) as source:
        assert not source.by_python
        assert source.request()[2] == str(ca_file)
        with source.reopen() as again:
            assert again.request()[2] == str(ca_file)
    streamload.pull(url, tmp_path / "to")
    assert (tmp_path / "to/m/x.safetensors").read_bytes() == data


@pytest.mark.usefixtures("_no_authorities")
def test_directory_of_the_environment_is_left_to_python(secure, monkeypatch, tmp_path):
    server, ca_file = secure
    url = server.url + server.put("y", b"data")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))  # a directory that is trusted takes links by hashes
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with open_source(url) as source:
        assert source.by_python
    with open_store(url.rpartition("/")[0], storage_options={"verify": str(ca_file)}).open("y") as source:
        assert not source.by_python, "a file that was named is all that is trusted"


@pytest.mark.usefixtures("_no_authorities")
def test_authorities_of_the_system_need_no_name(secure):
    server, ca_file = secure
    store = open_store(server.url, storage_options={"verify": str(ca_file)})
    store._connections.ca_file = ""
    assert store._connections.native_authorities() == ("", True)
