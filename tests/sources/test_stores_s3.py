"""`s3://` by botocore: options as s3fs takes them, refusals as the errors they are, secrets nowhere."""

from __future__ import annotations

import threading
import time

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import open_source, open_store
from streamload.testing import SourceTests

from ..servers.loop_server import LoopServer, answer, read_head

pytest.importorskip("botocore")
pytest.importorskip("moto")

pytestmark = pytest.mark.slow

DATA = bytes(range(256)) * 40
SECRET = "s3cr3t-k3y"


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


class TestS3Source(SourceTests):
    @pytest.fixture(autouse=True)
    def _moto(self, moto):
        self.store = moto

    def make_source(self, data):
        return open_source(self.store.put("promises", "a b+c/x", data), storage_options=self.store.options())

    def change(self):
        self.store.put("promises", "a b+c/x", b"x" * 100_003)
        return True


def test_prefix_lists_its_own_names(moto):
    for name in ("list/a", "list/b c", "list/deep/d", "listing"):
        moto.put("names", name, b"x")
    store = open_store("s3://names/list/", storage_options=moto.options())
    assert store.names() == {"a", "b c"}
    assert store.names(deep=True) == {"a", "b c", "deep/d"}
    assert "listing" in open_store("s3://names", storage_options=moto.options()).names()
    assert open_store("s3a://names/none", storage_options=moto.options()).names() == set()


def test_query_is_signed_once_for_all_reads(moto):
    with open_source(moto.put("signed", "x", DATA), storage_options=moto.options()) as source:
        first, lines, _ = source.request()
        assert "X-Amz-Signature=" in first
        assert "X-Amz-Expires=3600" in first
        assert lines == []
        assert source.request()[0] == first
        assert source.url == "s3://signed/x"


def test_missing_bucket_object_and_prefix_are_not_found(moto):
    moto.put("there", "x", b"x")
    options = moto.options()
    for url in ("s3://there/nothing", "s3://not-there/x"):
        with pytest.raises(FileNotFoundError, match=r"NoSuch(Key|Bucket)"):
            open_source(url, storage_options=options)
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        streamload.open("s3://not-there/model", storage_options=options)
    with pytest.raises(FileNotFoundError, match="nothing below it"):
        streamload.open("s3://there/model", storage_options=options)


def test_nobody_to_sign_is_a_permission_error_with_advice(moto):
    options = moto.options(key=None, secret=None)
    with pytest.raises(PermissionError, match="anon=True"):
        open_source("s3://bucket/x", storage_options=options)
    with pytest.raises(PermissionError, match="anon=True"):
        streamload.open("s3://bucket/model", storage_options=options)


def test_anonymous_requests_are_not_signed(moto):
    store = open_store("s3://bucket/dir", storage_options=moto.options(key=None, secret=None, anon=True))
    signed = store.signer("x").sign()
    assert (signed.url, signed.headers) == (f"{moto.endpoint}/bucket/dir/x", ())


def test_credentials_come_from_a_profile(moto, tmp_path):
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {moto.key}\naws_secret_access_key = {moto.secret}\n"
    )
    options = moto.options(key=None, secret=None, profile="mine")
    with open_source(moto.put("profiles", "x", DATA), storage_options=options) as source:
        assert source.nbytes == len(DATA)
        assert f"Credential={moto.key}" in source.request()[0]
    with pytest.raises(ValueError, match="profile"):
        open_store("s3://profiles", storage_options=moto.options(profile="nobodys"))


def test_credentials_and_endpoint_come_from_the_environment(moto, monkeypatch):
    moto.put("environment", "x", DATA)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0k3n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    with open_source("s3://environment/x") as source:
        assert "X-Amz-Security-Token=t0k3n" in source.request()[0]


def test_region_and_addressing_are_as_given(moto):
    options = {"key": "k", "secret": SECRET, "endpoint_url": "https://store.test"}
    virtual = options | {"region": "eu-west-3", "config_kwargs": {"s3": {"addressing_style": "virtual"}}}
    url = open_store("s3://bucket/d", storage_options=virtual).signer("x").sign().url
    assert url.startswith("https://bucket.store.test/d/x?")
    assert "%2Feu-west-3%2Fs3%2F" in url
    path = options | {"config_kwargs": {"s3": {"addressing_style": "path"}}}
    url = open_store("s3://bucket/d", storage_options=path).signer("x").sign().url
    assert url.startswith("https://store.test/bucket/d/x?")
    assert "%2Fus-east-1%2Fs3%2F" in url


def test_own_authority_is_passed_on(moto, tmp_path, monkeypatch):
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("x")
    moto.put("authority", "x", DATA)
    given = moto.options(client_kwargs={"region_name": "us-east-1", "verify": str(ca_file)})
    with open_source("s3://authority/x", storage_options=given) as source:
        assert source.request()[2] == str(ca_file)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
    with open_source("s3://authority/x", storage_options=moto.options()) as source:
        assert source.request()[2] == str(ca_file)
    given = moto.options(client_kwargs={"region_name": "us-east-1", "verify": False})
    with open_source("s3://authority/x", storage_options=given) as source:
        assert not source.policy.verify_tls


def test_s3fs_options_of_its_own_reading_are_harmless_and_others_refused(moto):
    open_store("s3://bucket", storage_options=moto.options(default_block_size=5, use_listings_cache=False))
    with pytest.raises(TypeError, match="has no nonsense") as caught:
        open_store("s3://bucket", storage_options=moto.options(nonsense=SECRET))
    assert SECRET not in str(caught.value)


class Refusing(LoopServer):
    """Answer 403 to signatures in the query, or send to another region; note what was asked."""

    def __init__(self, refuse) -> None:
        self.heads = []
        self.refuse = refuse
        super().__init__()

    async def handle(self, reader, writer) -> None:
        while head := await read_head(reader):
            self.heads.append(head)
            refused = self.refuse(head)
            if refused:
                writer.write(refused)
            else:
                text = f"bytes 0-{len(DATA) - 1}/{len(DATA)}"
                writer.write(answer(206, "Partial Content", DATA, Content_Range=text, ETag='"v"'))
            await writer.drain()


def store_options(server) -> dict[str, object]:
    config = {"s3": {"addressing_style": "path"}}
    return {"key": "k", "secret": SECRET, "endpoint_url": server.url, "config_kwargs": config}


def test_refused_query_is_followed_by_a_signed_header():
    def refuse(head):
        return answer(403, "Forbidden", b"<Code>AccessDenied</Code>") if "X-Amz-" in head.target else None

    with Refusing(refuse) as server, open_source("s3://b/k", storage_options=store_options(server)) as source:
        url, lines, _ = source.request()
        assert url == f"{server.url}/b/k"
        assert any(line.startswith("Authorization: AWS4-HMAC-SHA256 Credential=k/") for line in lines)
        assert server.heads[-1].get("range") == "bytes=0-262143"
        assert "range" not in server.heads[-1].get("authorization")


def test_lasting_refusal_takes_two_requests():
    with Refusing(lambda _: answer(403, "Forbidden", b"<Code>AccessDenied</Code>")) as server:
        with pytest.raises(PermissionError, match="403 AccessDenied"):
            open_source("s3://b/k", storage_options=store_options(server))
        assert len(server.heads) == 2


def test_bucket_of_another_region_is_found():
    def refuse(head):
        if "%2Fap-south-1%2F" in head.target:
            return None
        return answer(400, "Bad", b"<Code>AuthorizationHeaderMalformed</Code>", x_amz_bucket_region="ap-south-1")

    with Refusing(refuse) as server, open_source("s3://b/k", storage_options=store_options(server)) as source:
        assert source.nbytes == len(DATA)
        assert len(server.heads) == 2


def test_store_that_is_not_there_fails_soon():
    options = {"key": "k", "secret": SECRET, "endpoint_url": "http://127.0.0.1:1"}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}}
    with pytest.raises(streamload.SourceError, match="could not be asked") as caught:
        streamload.open("s3://bucket/model", storage_options=options)
    assert SECRET not in str(caught.value)


def test_listing_is_given_up_when_options_say_so():
    options = {"key": "k", "secret": SECRET, "endpoint_url": "http://127.0.0.1:1"}
    store = open_store("s3://bucket/model", storage_options=options, options=StreamOptions(retry_seconds=2))
    config = store._access._client.meta.config
    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (2, 2, 2)
    started = time.monotonic()
    with pytest.raises(streamload.SourceError, match="could not be asked"):
        store.names()
    assert time.monotonic() - started < 4  # one pause of at most a second; five tries take up to fifteen
    given = options | {"config_kwargs": {"read_timeout": 7}}
    assert open_store("s3://bucket", storage_options=given)._access._client.meta.config.read_timeout == 7


def test_bucket_is_asked_for():
    with pytest.raises(ValueError, match="'s3:///key': expected s3://bucket/key"):
        open_store("s3:///key")
    with pytest.raises(ValueError, match="'s3://models': expected the URL of an object"):
        open_source("s3://models")


def test_bucket_is_a_place_of_its_own(moto, write, tmp_path):
    bucket = "whole-bucket"
    moto.put(bucket, "other/x", b"x")
    with pytest.raises(FileNotFoundError, match="nothing") as caught:
        streamload.open(f"s3://{bucket}", storage_options=moto.options())
    assert f"s3://{bucket}" in str(caught.value)
    moto.put(bucket, "model.safetensors", write(tmp_path / "x.safetensors", "a").read_bytes())
    with streamload.open(f"s3://{bucket}", storage_options=moto.options()) as opened:
        assert set(opened) == {"a"}


@pytest.mark.parametrize(
    "options", [{"endpoint_url": "127.0.0.1:9000"}, {"client_kwargs": {"endpoint_url": "127.0.0.1:9000"}}, None]
)
def test_endpoint_without_a_scheme_is_named(options, monkeypatch):
    if options is None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(ValueError, match=r"s3://bucket/x: .*127.0.0.1:9000.*write http:// or https:// before it"):
        open_store("s3://bucket/x", storage_options=options)


def test_many_threads_may_sign_at_once(moto):
    store = open_store("s3://bucket", storage_options=moto.options())
    urls = []
    threads = [threading.Thread(target=lambda n=n: urls.append(store.signer(str(n)).sign().url)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(urls)) == 8


def test_signatures_are_made_anew_long_before_they_expire(moto, monkeypatch):
    with open_source(moto.put("aging", "x", DATA), storage_options=moto.options(), options=StreamOptions()) as source:
        first = source.request()[0]
        soon = time.monotonic() + 1000
        monkeypatch.setattr("time.monotonic", lambda: soon)
        monkeypatch.setattr(
            "botocore.auth.get_current_datetime", lambda: __import__("datetime").datetime(2030, 1, 1), raising=False
        )
        assert source._requests.address._old_at < soon
        assert source.request()[0].partition("?")[0] == first.partition("?")[0]
        assert source._requests.address._old_at > soon


@pytest.mark.parametrize("name", ["key", "secret", "token"])
def test_credentials_with_a_line_end_are_refused_unseen(name):
    given = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9", name: "hush-hush\n"}
    with pytest.raises(ValueError, match="line end") as caught:
        streamload.open("s3://bucket/model", storage_options=given)
    assert "hush-hush" not in str(caught.value)
