"""Objects over HTTP, read by Python: one request opens one, versions are pinned, secrets stay secret."""

from __future__ import annotations

import logging
import pickle
import ssl
import threading

import pytest

from streamload import StreamOptions
from streamload._sources import HttpSource, open_source, open_store
from streamload._sources._connections import Connections
from streamload._sources._retry import HttpPolicy
from streamload._sources._signers import Address, Signed
from streamload.errors import ChangedError, SourceError, StreamClosedError
from streamload.testing import SourceTests

from ..servers.fault_proxy import Fault
from ..servers.loop_server import LoopServer, answer, read_head

DATA = bytes(range(256)) * 4000
SECRET = "s3cr3t"
SHORT = StreamOptions(stall_seconds=0.5, retry_seconds=2.0)


class TestHttpSource(SourceTests):
    @pytest.fixture(autouse=True)
    def _origin(self, origin):
        self.origin = origin

    def make_source(self, data):
        return open_source(self.origin.url + self.origin.put("promises", data) + f"?sig={SECRET}")

    def change(self):
        self.origin.put("promises", b"x" * 100_003)
        return True


class Recorder(LoopServer):
    """Answer by a function of the test's, and remember what was asked."""

    def __init__(self, respond) -> None:
        self.heads = []
        self.respond = respond
        super().__init__()

    async def handle(self, reader, writer) -> None:
        while head := await read_head(reader):
            self.heads.append(head)
            writer.write(self.respond(head, len(self.heads)))
            await writer.drain()


def part(head, data=DATA, **headers: str) -> bytes:
    """The answer to a ranged GET of `data`."""
    start, _, last = head.get("range").removeprefix("bytes=").partition("-")
    end = min(int(last) + 1, len(data))
    text = f"bytes {start}-{end - 1}/{len(data)}"
    return answer(206, "Partial Content", data[int(start) : end], Content_Range=text, **headers)


def read(source, offset=0, nbytes=1000):
    buffer = bytearray(nbytes)
    count = source.read_into(offset, memoryview(buffer))
    return bytes(buffer[:count])


def test_one_request_opens_and_brings_the_header():
    with Recorder(lambda head, _: part(head, ETag='"v1"')) as server, open_source(server.url + "/x") as source:
        assert (source.nbytes, source.etag) == (len(DATA), '"v1"')
        assert source.head == DATA[: 256 << 10]
        assert [head.get("range") for head in server.heads] == ["bytes=0-262143"]
        assert read(source, 5) == DATA[5:1005]
        assert server.heads[-1].get("if-match") == '"v1"'
        source.forget_head()
        assert source.head == b""


def test_whole_object_that_comes_at_once_is_taken():
    with (
        Recorder(lambda *_: answer(200, "OK", b"small", ETag='"v"')) as server,
        open_source(server.url + "/x") as source,
    ):
        assert (source.nbytes, source.head) == (5, b"small")


@pytest.mark.slow
def test_server_that_knows_no_ranges_is_refused():
    with (
        Recorder(lambda *_: answer(200, "OK", DATA)) as server,
        pytest.raises(SourceError, match=r"the range was ignored.*or download the files first"),
    ):
        open_source(server.url + "/x", options=SHORT)


def test_connection_serves_many_requests(origin, fault_proxy):
    connections = set()
    with open_source(fault_proxy.url + origin.put("x", DATA)) as source:
        for offset in range(0, 5000, 1000):
            assert read(source, offset) == DATA[offset : offset + 1000]
        pool = source._requests.connections
        connections.update(id(each) for idle in pool._idle.values() for each in idle)
        assert len(connections) == 1
    assert not pool._idle


def test_weak_version_is_compared_and_never_sent():
    versions = iter(['W/"1"', 'W/"1"', 'W/"2"'])
    with (
        Recorder(lambda head, _: part(head, ETag=next(versions))) as server,
        open_source(server.url + "/x") as source,
    ):
        assert source.etag == ""
        read(source)
        assert server.heads[-1].get("if-match") is None
        with pytest.raises(ChangedError, match='W/"2"'):
            read(source)


def test_missing_object_is_named_without_its_query(origin):
    with pytest.raises(FileNotFoundError, match="no such object") as caught:
        open_source(f"{origin.url}/nothing?sig={SECRET}")
    assert caught.value.filename == f"{origin.url}/nothing"


@pytest.mark.parametrize("status", [401, 403])
def test_denied_object_is_a_permission_error(status):
    body = b"<Error><Code>SignatureDoesNotMatch</Code><Key>%b</Key></Error>" % SECRET.encode()
    with (
        Recorder(lambda *_: answer(status, "Denied", body)) as server,
        pytest.raises(PermissionError, match=f"status {status} SignatureDoesNotMatch") as caught,
    ):
        open_source(server.url + "/x")
    assert SECRET not in str(caught.value)
    assert len(server.heads) == 1


@pytest.mark.slow
def test_no_text_shows_a_secret(origin, fault_proxy, caplog):
    caplog.set_level(logging.DEBUG)
    url = fault_proxy.url.replace("://", f"://user:{SECRET}@") + origin.put("x", DATA) + f"?sig={SECRET}"
    with open_source(url, storage_options={"headers": {"X-Key": SECRET}}, options=SHORT) as source:
        fault_proxy.set(Fault("status", status=503, times=0))
        with pytest.raises(SourceError) as caught:
            read(source, 300_000)
        error = pickle.loads(pickle.dumps(caught.value))
        signed = source._requests.address.current()
        shown = [str(error), error.url, repr(source), source.url, repr(open_store(url)), repr(signed), caplog.text]
        assert not [text for text in shown if SECRET in text]
        assert error.offset == 300_000
        assert error.nbytes == 1000
    assert any(request.authorized for request in fault_proxy.requests)


def test_redirect_is_followed_once_and_tells_no_other_host_the_token(origin):
    path = origin.put("x", DATA)
    elsewhere = origin.url.replace("127.0.0.1", "localhost")

    def respond(head, number):
        return answer(302, "Found", Location=f"{elsewhere}{path}?sig={SECRET}")

    with Recorder(respond) as server:
        options = {"headers": {"Authorization": f"Bearer {SECRET}"}}
        with open_source(server.url + "/file", storage_options=options) as source:
            assert read(source, 7) == DATA[7:1007]
            url, lines, _ = source.request()
            assert url.startswith(elsewhere)
            assert lines == []
        assert [head.get("authorization") for head in server.heads] == [f"Bearer {SECRET}"]


def test_redirect_on_one_host_keeps_the_token():
    def respond(head, number):
        return answer(307, "Moved", Location="/there") if head.path == "/here" else part(head)

    with Recorder(respond) as server:
        with open_source(server.url + "/here", storage_options={"headers": {"Authorization": "Bearer x"}}):
            pass
        assert [head.get("authorization") for head in server.heads] == ["Bearer x"] * 2


def test_redirect_that_has_expired_is_resolved_again():
    def respond(head, number):
        if head.path == "/file":
            return answer(302, "Found", Location=f"/signed-{number}")
        return answer(403, "Expired") if head.path == "/signed-1" and number > 2 else part(head)

    with Recorder(respond) as server, open_source(server.url + "/file") as source:
        assert read(source, 9) == DATA[9:1009]
        assert [head.path for head in server.heads] == ["/file", "/signed-1", "/signed-1", "/file", "/signed-4"]


def test_renewed_redirect_is_followed_before_others_use_it():
    def respond(head, number):
        return answer(302, "Found", Location=f"/signed-{number}") if head.path == "/file" else part(head)

    with Recorder(respond) as server, open_source(server.url + "/file") as source:
        assert source.request()[0] == server.url + "/signed-1"
        source.close()
        assert source.renew(403)[0] == server.url + "/signed-3"
        assert source.request()[0] == server.url + "/signed-3"
        assert [head.get("range") for head in server.heads[2:]] == ["bytes=0-0"] * 2


def test_redirects_in_a_circle_end():
    with (
        Recorder(lambda head, _: answer(302, "Found", Location=head.path)) as server,
        pytest.raises(SourceError, match="more than 8 redirects"),
    ):
        open_source(server.url + "/x")


@pytest.mark.parametrize(
    ("location", "says"),
    [("ftp://host/x", "no http or https URL"), ("http://u:p@host/x", "no http or https URL")],
)
def test_redirect_elsewhere_is_refused(location, says):
    with (
        Recorder(lambda *_: answer(302, "Found", Location=location)) as server,
        pytest.raises(SourceError, match=says),
    ):
        open_source(server.url + "/x")


def test_https_is_never_left_by_a_redirect():
    address = Address(_Signer(Signed("https://host/x")))
    with pytest.raises(ValueError, match="from https to http"):
        address.follow(address.current(), "http://host/x")


class _Signer:
    def __init__(self, *signed: Signed) -> None:
        self.signed = list(signed)

    def sign(self):
        return self.signed.pop(0) if len(self.signed) > 1 else self.signed[0]

    def refused(self, status, headers):
        return True


def test_signature_is_renewed_when_old_and_when_refused():
    first, second, third = Signed("http://h/1", (), 0.0), Signed("http://h/2"), Signed("http://h/3")
    address = Address(_Signer(first, second, third))
    assert address.current() is first
    assert address.current() is second  # the first was old at once
    assert address.refused(second, 403, {})
    assert address.current() is third
    assert address.renew(second) is third, "somebody else has renewed it meanwhile"


def test_gone_after_it_was_there_is_told(origin):
    with open_source(origin.url + origin.put("gone", DATA)) as source:
        origin.remove("gone")
        with pytest.raises(FileNotFoundError):
            read(source, 500_000)


def test_reset_resumes_at_the_byte(origin, fault_proxy):
    with open_source(fault_proxy.url + origin.put("x", DATA), options=SHORT) as source:
        fault_proxy.set(Fault("reset", at=100_000, times=1))
        before = len(fault_proxy.requests)
        assert read(source, 300_000, 200_000) == DATA[300_000:500_000]
        first, second = [request.range for request in list(fault_proxy.requests)[before:]]
        assert first == "bytes=300000-499999"
        assert 300_000 < int(second[6:].partition("-")[0]) <= 400_000


def test_close_ends_the_wait_for_another_try(origin, fault_proxy):
    options = StreamOptions(retry_seconds=300.0)
    with open_source(fault_proxy.url + origin.put("x", DATA), options=options) as source:
        fault_proxy.set(Fault("status", status=503, times=0, retry_after=30))
        failed = []

        def work():
            try:
                read(source, 300_000)
            except StreamClosedError as error:
                failed.append(error)

        before = len(fault_proxy.requests)
        thread = threading.Thread(target=work)
        thread.start()
        while len(fault_proxy.requests) == before:
            thread.join(0.01)
        source.close()
        thread.join(10)
        assert failed


@pytest.mark.slow
def test_server_that_is_not_there_fails_soon():
    with pytest.raises(SourceError, match=r"4 requests.*refused") as caught:
        open_source("http://127.0.0.1:1/x")
    assert caught.value.errno


@pytest.mark.slow
def test_untrusted_certificate_fails_at_once(swift_tls):
    with pytest.raises(SourceError, match=r"after 1 requests.*certificate.*verify") as caught:
        open_source(f"{swift_tls.endpoint}/x")
    assert not isinstance(caught.value, ssl.SSLError)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nonsense": 1}, "has no nonsense; known are"),
        ({"client_kwargs": {"auth": SECRET}}, "has no auth"),
        ({"headers": {"A": "b\r\nC: d"}}, "without line ends"),
        ({"headers": [("A", "b")]}, "must be a dict"),
        ({"verify": 3}, "verify must be"),
    ],
)
def test_options_nobody_would_heed_are_refused(options, says):
    with pytest.raises(TypeError, match=says) as caught:
        open_store("https://host/x", storage_options=options)
    assert SECRET not in str(caught.value)


def test_missing_authority_file_is_told():
    with pytest.raises(FileNotFoundError):
        open_store("https://host/x", storage_options={"verify": "nowhere/ca.pem"})


def test_place_cannot_be_listed():
    assert open_store("https://host/x").names() is None


def test_blanks_and_signs_in_paths_are_encoded(origin):
    path = origin.put("a b+ü/x", b"data")
    with open_source(origin.url + path) as source:
        assert source.nbytes == 4


@pytest.mark.slow
def test_proxy_is_used_only_where_it_is_named(origin, monkeypatch):
    path = origin.put("x", b"data")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    open_source(origin.url + path).close()
    proxied = {"proxies": {"http": origin.url}}
    with open_source(f"http://elsewhere.invalid{path}", storage_options=proxied) as source:
        assert source.by_python
    with pytest.raises(SourceError, match="refused"):
        open_source(origin.url + path, storage_options={"client_kwargs": {"trust_env": True}})


def test_connections_of_a_parent_are_not_a_childs(monkeypatch, origin):
    with open_source(origin.url + origin.put("x", DATA)) as source:
        pool = source._requests.connections
        (kept,) = next(iter(pool._idle.values()))
        monkeypatch.setattr("os.getpid", lambda: -1)
        assert read(source) == DATA[:1000]
        assert kept not in next(iter(pool._idle.values()))


def test_native_engine_is_told_all_it_needs():
    policy = HttpPolicy(1.0, 2.0, 3.0, 0.1, 0.5, True, False)
    with Recorder(lambda head, _: part(head, ETag='"v"')) as server:
        signer = _Signer(Signed(server.url + "/x", (("A", "b"),)), Signed(server.url + "/y"))
        with HttpSource(signer, Connections(policy, ca_file="/ca.pem"), url="x://y") as source:
            assert tuple(source.policy) == (1.0, 2.0, 3.0, 0.1, 0.5, True, False)
        assert source.request() == (server.url + "/x", ["A: b"], "/ca.pem")
        assert source.renew(403) == (server.url + "/y", [])
        assert not source.by_python
