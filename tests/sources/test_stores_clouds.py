"""`gs://` and `az://`: how requests are signed and where they go; no cloud is asked."""

from __future__ import annotations

import errno
import os
import sys
from urllib.parse import parse_qs, urlsplit

import pytest

from streamload._sources import open_store
from streamload.errors import SourceError

KEY = "c2VjcmV0LWtleQ=="


@pytest.mark.slow
def test_gcs_token_goes_into_a_header(origin):
    pytest.importorskip("gcsfs")
    credentials = pytest.importorskip("google.oauth2.credentials").Credentials("t0k3n")
    options = {"token": credentials, "endpoint_url": origin.url, "project": "p"}
    signed = open_store("gs://bucket/a dir", storage_options=options).signer("x+1").sign()
    assert signed.url == f"{origin.url}/bucket/a%20dir/x%2B1"
    assert dict(signed.headers)["authorization"] == "Bearer t0k3n"
    assert signed.good_seconds < 300
    assert "t0k3n" not in repr(signed)


@pytest.mark.slow
def test_gcs_error_shows_no_token(monkeypatch):
    pytest.importorskip("gcsfs")

    def refuse(*_: object, **__: object):
        raise RuntimeError("https://oauth2.test/tokeninfo?access_token=t0k3n is not there")

    monkeypatch.setattr("gcsfs.GCSFileSystem.__init__", refuse)
    with pytest.raises(SourceError, match=r"oauth2\.test") as caught:
        open_store("gs://bucket/x", storage_options={"token": "t0k3n", "requests_timeout": 7})
    assert "t0k3n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.slow
def test_gcs_object_is_read(origin):
    pytest.importorskip("gcsfs")
    origin.put("/bucket/dir/x", b"hello")
    store = open_store("gs://bucket/dir", storage_options={"token": "anon", "endpoint_url": origin.url})
    with store.open("x") as source:
        assert (source.nbytes, source.url, source.head) == (5, "gs://bucket/dir/x", b"hello")


@pytest.mark.slow
def test_azure_key_signs_the_query():
    pytest.importorskip("adlfs")
    options = {"account_name": "mine", "account_key": KEY}
    signed = open_store("az://box/dir", storage_options=options).signer("x").sign()
    parts = urlsplit(signed.url)
    assert (parts.netloc, parts.path) == ("mine.blob.core.windows.net", "/box/dir/x")
    assert {"sig", "se", "sp"} <= parse_qs(parts.query).keys()
    assert signed.good_seconds


@pytest.mark.slow
def test_azure_signature_and_public_blobs_are_taken_as_they_are():
    pytest.importorskip("adlfs")
    given = {"account_name": "mine", "sas_token": "?sv=1&sig=abc"}
    url = "abfs://box@mine.dfs.core.windows.net/dir"
    assert open_store(url, storage_options=given).signer("x").sign().url == (
        "https://mine.blob.core.windows.net/box/dir/x?sv=1&sig=abc"
    )
    public = {"account_name": "mine", "anon": True}
    signed = open_store("az://box/dir", storage_options=public).signer("x").sign()
    assert signed.url == "https://mine.blob.core.windows.net/box/dir/x"
    assert "Authorization" not in dict(signed.headers)


@pytest.mark.slow
def test_azure_without_credentials_says_what_to_give(monkeypatch):
    pytest.importorskip("adlfs")
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=r"az://box/dir: .*give storage_options account_name and account_key"):
        open_store("az://box/dir")
    store = open_store("az://box/dir", storage_options={"account_name": "mine", "account_key": KEY})

    def refuse(**_: object):
        raise PermissionError(errno.EACCES, "no", "az://box/dir")

    monkeypatch.setattr(store._listing, "names", refuse)
    with pytest.raises(PermissionError, match="no; give storage_options account_name and account_key"):
        store.names()


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://b/k", "botocore", "s3"),
        ("gs://b/k", "gcsfs", "gcs"),
        ("az://b/k", "adlfs", "azure"),
        ("hf://org/name", "huggingface_hub", "hf"),
        ("memory://x", "fsspec", "remote"),
    ],
)
def test_missing_library_names_the_extra(url, module, extra, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    scheme = url.partition("://")[0]
    with pytest.raises(ImportError, match=rf"{scheme}:// needs {module}.*pip install 'streamload\[{extra}\]'"):
        open_store(url)
