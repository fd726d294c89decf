"""The servers of the tests are what they are taken for."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request

import pytest

from .fault_proxy import BEFORE_HEAD, Fault
from .stores import slow_link

DATA = bytes(range(256)) * 4096


def get(url, headers=None, context=None, timeout=20):
    request = urllib.request.Request(url, headers=headers or {})
    with urllib.request.urlopen(request, timeout=timeout, context=context) as found:
        return found.status, dict(found.headers), found.read()


def ranged(url, context=None, timeout=20):
    return get(url, {"Range": "bytes=1000-200999"}, context, timeout)


def signed(store, url):
    s3fs = pytest.importorskip("s3fs")
    system = s3fs.S3FileSystem(**store.options(), skip_instance_cache=True)
    return system.sign(url)


@pytest.fixture
def url(origin, fault_proxy):
    return fault_proxy.url + origin.put("model.safetensors", DATA)


def test_origin_serves_ranges_and_pins(origin):
    url = origin.url + origin.put("a b/c", DATA).replace(" ", "%20")
    status, headers, body = ranged(url)
    assert (status, body, headers["Content-Range"]) == (206, DATA[1000:201_000], f"bytes 1000-200999/{len(DATA)}")
    with pytest.raises(urllib.error.HTTPError, match="412") as caught:
        get(url, {"If-Match": '"other"'})
    caught.value.close()
    with pytest.raises(urllib.error.HTTPError, match="416") as caught:
        get(url, {"Range": f"bytes={len(DATA)}-"})
    caught.value.close()
    assert get(url, {"Range": "bytes=-5"})[2] == DATA[-5:]


def test_proxy_without_faults_changes_nothing(url, fault_proxy):
    assert ranged(url)[2] == DATA[1000:201_000]
    assert get(url)[2] == DATA
    assert [request.fault for request in fault_proxy.requests] == ["", ""]
    assert json.loads(get(fault_proxy.url + "/__stats")[2])[0]["range"] == "bytes=1000-200999"


@pytest.mark.parametrize("kind", ["reset", "close"])
@pytest.mark.parametrize("at", [0.0, 0.3, 0.9])
def test_body_breaks_off_where_it_is_told(url, fault_proxy, kind, at):
    fault_proxy.set(Fault(kind, at=at))
    connection = http.client.HTTPConnection("127.0.0.1", fault_proxy.port, timeout=20)
    connection.request("GET", "/model.safetensors", headers={"Range": "bytes=1000-200999"})
    buffer, got, ended = bytearray(200_000), 0, ""
    try:
        answer = connection.getresponse()
        while count := answer.readinto(memoryview(buffer)[got:]):
            got += count
    except (ConnectionResetError, http.client.IncompleteRead) as error:
        ended = type(error).__name__
    finally:
        connection.close()
    assert (got == int(at * 200_000)) or kind == "reset"
    assert bytes(buffer[:got]) == DATA[1000 : 1000 + got]
    assert ended == ("ConnectionResetError" if kind == "reset" else "")
    assert ranged(url)[2] == DATA[1000:201_000], "only one request was to meet it"


def test_faults_before_the_head(url, fault_proxy):
    fault_proxy.set(Fault("reset", at=BEFORE_HEAD), Fault("stall", at=BEFORE_HEAD))
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        ranged(url)
    with pytest.raises(TimeoutError):
        ranged(url, timeout=0.1)
    assert [request.fault for request in fault_proxy.ranged] == ["reset", "stall"]


def test_answers_that_lie(url, fault_proxy):
    kinds = ("half", "flip", "whole", "shifted", "total", "etag")
    fault_proxy.set(*(Fault(kind) for kind in kinds))
    half, flip, whole, shifted, total, etag = (ranged(url) for _ in kinds)
    assert len(half[2]) == 100_000
    assert [at for at in range(200_000) if flip[2][at] != DATA[1000 + at]] == [100_000]
    assert (whole[0], whole[2]) == (200, DATA)
    assert shifted[1]["Content-Range"].startswith("bytes 1001-")
    assert total[1]["Content-Range"].endswith(f"/{len(DATA) + 1}")
    assert etag[1]["ETag"] == f'"{"0" * 32}"'


def test_status_for_two_then_pass_then_for_ever(url, fault_proxy):
    fault_proxy.set(Fault("status", times=2, retry_after=1), Fault("status", after=1, status=500, times=0))
    found = []
    for _ in range(5):
        try:
            found.append(ranged(url)[0])
        except urllib.error.HTTPError as error:
            found.append((error.code, error.headers["Retry-After"]))
            error.close()
    assert found == [(503, "1"), (503, "1"), 206, (500, None), (500, None)]


def test_trickle_takes_its_time(url, fault_proxy):
    fault_proxy.set(Fault("trickle", at=0.9, rate=200_000))
    began = time.monotonic()
    assert ranged(url)[2] == DATA[1000:201_000]
    assert time.monotonic() - began > 0.05


def test_faults_are_set_by_http_too(url, fault_proxy):
    get(f"{fault_proxy.url}/__set?kind=status&status=429&times=1&retry_after=2")
    with pytest.raises(urllib.error.HTTPError, match="429") as caught:
        ranged(url)
    caught.value.close()
    assert ranged(url)[0] == 206


@pytest.mark.slow
def test_swift_checks_signatures_also_through_the_proxy(swift, swift_faults):
    pytest.importorskip("s3fs")
    proxy, store = swift_faults
    store.put("bucket", "dir/m odel+x.bin", DATA)
    url = signed(store, "bucket/dir/m odel+x.bin")
    assert ranged(url)[2] == DATA[1000:201_000]
    assert proxy.ranged[0].path == "/bucket/dir/m%20odel%2Bx.bin"
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        ranged(url[:-3])
    caught.value.close()
    with pytest.raises(urllib.error.HTTPError, match="412") as caught:
        get(url, {"Range": "bytes=0-9", "If-Match": '"stale"'})
    caught.value.close()


@pytest.mark.slow
def test_swift_behind_tls_is_trusted_through_its_authority_only(swift_tls):
    swift_tls.put("bucket", "x", DATA)
    url = signed(swift_tls, "bucket/x")
    assert ranged(url, context=ssl.create_default_context(cafile=swift_tls.ca_file))[2] == DATA[1000:201_000]
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        ranged(url)


@pytest.mark.slow
def test_moto_serves_objects(moto):
    moto.put("bucket", "x", DATA)
    assert ranged(signed(moto, "bucket/x"))[2] == DATA[1000:201_000]


@pytest.mark.slow
def test_nginx_serves_a_folder_in_memory(nginx):
    (nginx.root / "bucket").mkdir()
    (nginx.root / "bucket" / "x").write_bytes(DATA)
    context = ssl.create_default_context(cafile=nginx.ca_file)
    assert ranged(nginx.url + "/bucket/x")[2] == ranged(nginx.url + "/slow/bucket/x")[2] == DATA[1000:201_000]
    assert ranged(nginx.tls_url + "/bucket/x", context=context)[2] == DATA[1000:201_000]


@pytest.mark.slow
def test_link_keeps_rate_and_latency(nginx):
    (nginx.root / "long").write_bytes(bytes(4 << 20))
    with slow_link(nginx.url, bytes_per_second=20e6, latency_seconds=0.05) as near:
        began = time.perf_counter()
        assert len(get(near + "/long")[2]) == 4 << 20
        seconds = time.perf_counter() - began
    assert 0.1 + (4 << 20) / 20e6 - 0.05 < seconds < 5
