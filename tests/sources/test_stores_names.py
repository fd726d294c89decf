"""What names, places and headers of a web server may look like, and what no error shows of them."""

from __future__ import annotations

import traceback

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import open_source, open_store
from streamload._sources._signers import PlainSigner
from streamload.errors import SourceError

from ..servers.loop_server import answer
from .test_stores_http import DATA, SECRET, Recorder, part, read

SHORT = StreamOptions(stall_seconds=0.5, retry_seconds=1.0)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a?b.safetensors", "/m/a%3Fb.safetensors?sig=q"),
        ("a#b.safetensors", "/m/a%23b.safetensors?sig=q"),
        ("a%.safetensors", "/m/a%25.safetensors?sig=q"),
        ("a%20b.safetensors", "/m/a%20b.safetensors?sig=q"),
        ("a bü.safetensors", "/m/a%20b%C3%BC.safetensors?sig=q"),
    ],
)
def test_name_is_a_path_whatever_is_in_it(name, target):
    with Recorder(lambda head, _: part(head, ETag='"1"')) as server:
        with open_store(f"{server.url}/m?sig=q").open(name) as source:
            assert source.url == f"{server.url}/m/{name}"
        assert server.heads[0].target == target


def test_fragment_of_a_url_is_not_sent():
    with Recorder(lambda head, _: part(head, ETag='"1"')) as server:
        open_source(f"{server.url}/m/x.safetensors#part").close()
        open_source(f"{server.url}/m/x.safetensors?sig=q#part").close()
        assert [head.target for head in server.heads] == ["/m/x.safetensors", "/m/x.safetensors?sig=q"]


@pytest.mark.parametrize(
    "location",
    [
        f"http://127.0.0.1:abc/?sig={SECRET}",
        f"http://127.0.0.1:99999/?sig={SECRET}",
        f"http://127.0.0.1:0/?sig={SECRET}",
        f"http://[::1/?sig={SECRET}",
        f"http://a.\xe9/?sig={SECRET}",
        f"http://{'a' * 70}.example/?sig={SECRET}",
    ],
)
def test_redirect_to_no_place_is_a_typed_error(location):
    with (
        Recorder(lambda *_: answer(302, "Found", Location=location)) as server,
        pytest.raises(SourceError, match="a redirect to what is no http or https URL") as caught,
    ):
        open_source(f"{server.url}/x", options=SHORT)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_redirect_with_blanks_and_other_signs_is_followed():
    def respond(head, number):
        return answer(302, "Found", Location="/a b?c=\xe9\x01%20") if head.path == "/x" else part(head, ETag='"1"')

    with Recorder(respond) as server, open_source(f"{server.url}/x") as source:
        assert read(source, 9) == DATA[9:1009]
        assert server.heads[-1].target == "/a%20b?c=%E9%01%20"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}\u20ac"},
        {"Authorization": f"Bearer {SECRET}\0"},
        {"Authorization": f"Bearer {SECRET}\n"},
        {f"Authorization: {SECRET}": "x"},
    ],
)
def test_header_that_cannot_be_sent_is_refused_unseen(headers):
    with pytest.raises(TypeError, match="header") as caught:
        open_store("https://host/x", storage_options={"headers": headers})
    assert SECRET not in str(caught.value)


def test_header_of_a_signer_that_cannot_be_sent_is_refused_unseen(monkeypatch):
    with Recorder(lambda head, _: part(head)) as server:
        store = open_store(server.url)
        monkeypatch.setattr(store, "signer", lambda name: PlainSigner(f"{server.url}/x", {"X-Key": f"{SECRET}\n"}))
        with pytest.raises(SourceError, match="the header X-Key has line ends") as caught:
            store.open("x")
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert not server.heads


@pytest.mark.parametrize("url", [f"http://u:{SECRET}@host:abc/x", f"http://{'a' * 70}.example/x", "http://h:99999/x"])
def test_place_that_is_none_is_refused_unseen(url):
    for call in (
        lambda: open_store(url),
        lambda: open_store("http://host/x", storage_options={"proxies": {"http": url}}),
    ):
        with pytest.raises(ValueError, match="expected a host") as caught:
            call()
        assert SECRET not in str(caught.value)


@pytest.mark.slow
def test_answer_that_is_no_http_is_not_quoted():
    with (
        Recorder(lambda *_: f"SSH-{SECRET}\r\n\r\n".encode()) as server,
        pytest.raises(SourceError, match="BadStatusLine") as caught,
    ):
        open_source(f"{server.url}/x", options=SHORT)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_shards_are_found_whatever_their_names(write, tmp_path):
    data = write(tmp_path / "one.safetensors", "a").read_bytes()
    index = b'{"weight_map": {"a": "a?b.safetensors"}}'

    def respond(head, number):
        return part(head, index if head.path.endswith(".json") else data, ETag='"1"')

    with Recorder(respond) as server:
        with streamload.open(f"{server.url}/m/m.safetensors.index.json?sig=q") as checkpoint:
            assert list(checkpoint) == ["a"]
        assert server.heads[-1].target == "/m/a%3Fb.safetensors?sig=q"
