"""Every fault of the table, at every tenth of a body, by both ways: right bytes or a typed error, in time.

The table is that of the research on clients of object stores: what each of them does when a connection breaks off, a
server is busy, or an answer is not what was asked for. Times are short here, and everything is next door.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from streamload._sources import open_source
from streamload.errors import ChangedError, SourceError

from ..servers.fault_proxy import BEFORE_HEAD, Fault
from ..servers.loads import WAYS, load_range, short_options

RANGE = 200_000
START = 300_000  # behind what opening brings
DATA = random.Random(5).randbytes(START + RANGE + 70_000)
TENTHS = tuple(tenth / 10 for tenth in range(10))
OPTIONS = short_options()
PATIENT = 30.0  # no load takes that long, on a machine however busy

RIGHT = None
# What goes wrong for a body that breaks at `at`, and how it has to end.
IN_THE_BODY = {
    "reset": (Fault("reset"), RIGHT),
    "closed": (Fault("close"), RIGHT),
    "stalled": (Fault("stall"), RIGHT),
    "reset twice": (Fault("reset", times=2), RIGHT),
    "trickle": (Fault("trickle", rate=1_000_000), RIGHT),
}
# Of answers, whatever their bodies; met by each range in turn.
IN_THE_HEAD = {
    "reset before the answer": (Fault("reset", at=BEFORE_HEAD), RIGHT),
    "stalled before the answer": (Fault("stall", at=BEFORE_HEAD), RIGHT),
    "503 twice": (Fault("status", times=2), RIGHT),
    "500 twice": (Fault("status", status=500, times=2), RIGHT),
    "429 once": (Fault("status", status=429), RIGHT),
    "429 that says when": (Fault("status", status=429, retry_after=1), RIGHT),
    "a store that waited too long for the request": (Fault("status", status=400, times=2), RIGHT),
    "half a body": (Fault("half"), RIGHT),
    "half of every body": (Fault("half", times=0), SourceError),
    "the whole object once": (Fault("whole"), RIGHT),
    "the whole object": (Fault("whole", times=0), SourceError),
    "another offset": (Fault("shifted", times=0), SourceError),
    "another length": (Fault("total", times=0), ChangedError),
    "another ETag": (Fault("etag", times=0), ChangedError),
    "the whole object, grown": (Fault("longer", times=0), ChangedError),
    "no such range": (Fault("status", status=416, times=0), ChangedError),
    "a precondition that failed": (Fault("status", status=412, times=0), ChangedError),
    "denied": (Fault("status", status=403, times=0), PermissionError),
    "gone": (Fault("status", status=404, times=0), FileNotFoundError),
}


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def source(origin, fault_proxy):
    with open_source(fault_proxy.url + origin.put("weights", DATA), options=OPTIONS) as opened:
        yield opened


def load(source, proxy, *faults: Fault, way, options=OPTIONS, chunk=None):
    """Load the range while these faults happen; return the bytes, the stats, or the error, and how long it took."""
    proxy.set(*faults)
    options = options if chunk is None else replace(options, chunk_bytes=chunk)
    began = time.monotonic()
    try:
        found, stats = load_range(source, START, START + RANGE, options, way=way)
    except (OSError, ValueError, RuntimeError) as error:
        assert time.monotonic() - began < PATIENT
        return None, None, error
    assert time.monotonic() - began < PATIENT
    assert found == DATA[START : START + RANGE], "wrong bytes"
    return found, stats, None


def check_counts(stats, proxy, way):
    """What the engine counts is what the proxy saw."""
    assert (stats.remote_bytes if way == "native" else stats.callback_bytes) == RANGE
    assert stats.requests == len(proxy.ranged)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_THE_BODY)
def test_a_body_that_breaks_off_ends_in_right_bytes(source, fault_proxy, way, name):
    fault, _ = IN_THE_BODY[name]
    for at in TENTHS:
        _, stats, error = load(source, fault_proxy, replace(fault, at=at), way=way)
        assert error is None, (at, error)
        check_counts(stats, fault_proxy, way)
        met = [request for request in fault_proxy.ranged if request.fault]
        assert met
        assert len(fault_proxy.ranged) <= 2 + len(met), "each fault costs one more request, and one may be hedged"
        if fault.kind != "trickle":
            assert stats.retries >= fault.times
            assert stats.resumes >= (at > 0)


@pytest.mark.slow
@pytest.mark.parametrize("at", TENTHS[1:])
def test_every_body_that_breaks_off_is_resumed_at_the_byte(source, fault_proxy, way, at):
    cut = int(at * RANGE)
    _, _, error = load(source, fault_proxy, Fault("reset", at=cut, times=0), way=way)
    assert error is None
    starts = [int(request.range.removeprefix("bytes=").partition("-")[0]) for request in fault_proxy.ranged]
    assert starts[0] == START
    assert starts == sorted(starts)
    assert len(starts) <= 2 + RANGE // cut


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_THE_HEAD)
def test_an_answer_that_is_none_ends_as_it_should(source, fault_proxy, way, name):
    fault, expected = IN_THE_HEAD[name]
    positions = range(4) if fault.times else (0, 3)
    for after in positions:  # the range is cut into four requests
        _, stats, error = load(source, fault_proxy, replace(fault, after=after), way=way, chunk=64 << 10)
        if expected is RIGHT:
            assert error is None, (after, error)
            check_counts(stats, fault_proxy, way)
            assert len(fault_proxy.ranged) == 4 + stats.retries + stats.hedges
            assert fault.times <= stats.retries <= fault.times + 3, "a machine that stalls costs a few more"
            assert stats.throttled == (fault.times if fault.status in (429, 503) and fault.kind == "status" else 0)
        else:
            assert isinstance(error, expected), (after, error)
            assert len(fault_proxy.ranged) <= 40
            assert "weights" in str(error)


@pytest.mark.slow
def test_a_server_that_stays_busy_is_given_up_in_time(source, fault_proxy, way):
    options = short_options(retry_seconds=1.0)
    with open_source(fault_proxy.url + "/weights", options=options) as source:
        for fault in (Fault("status", times=0), Fault("reset", at=0.0, times=0), Fault("stall", at=0.0, times=0)):
            began = time.monotonic()
            _, _, error = load(source, fault_proxy, fault, way=way, options=options)
            seconds = time.monotonic() - began
            assert isinstance(error, SourceError)
            assert seconds < 10
            assert 2 <= len(fault_proxy.ranged) <= 60
            assert error.offset is not None
            assert error.nbytes


@pytest.mark.slow
def test_reset_then_another_version_is_never_mixed(source, fault_proxy, way):
    for at in TENTHS:
        _, _, error = load(source, fault_proxy, Fault("reset", at=at), Fault("etag", times=0), way=way)
        assert isinstance(error, ChangedError), (at, error)


@pytest.mark.slow
def test_an_object_replaced_under_the_load_is_told(origin, fault_proxy, way):
    url = fault_proxy.url + origin.put("replaced", DATA)
    with open_source(url, options=OPTIONS) as source:
        origin.put("replaced", DATA[::-1])
        _, _, error = load(source, fault_proxy, way=way)
    assert isinstance(error, ChangedError)
    assert len(fault_proxy.ranged) <= 2
    assert fault_proxy.ranged[0].if_match


@pytest.mark.slow
@pytest.mark.parametrize("name", [*IN_THE_BODY, *IN_THE_HEAD])
def test_faults_met_while_opening_end_as_they_should(origin, fault_proxy, name):
    fault, expected = (IN_THE_BODY | IN_THE_HEAD)[name]
    path = origin.put("opened", DATA)
    for at in TENTHS[::3] if name in IN_THE_BODY else (fault.at,):
        fault_proxy.set(replace(fault, at=at))
        began = time.monotonic()
        # Nothing pins an object before it is open: its first answer says what it is, and 416 that it is empty.
        if expected is RIGHT or fault.kind in ("etag", "total") or fault.status == 416:
            with open_source(fault_proxy.url + path, options=OPTIONS) as source:
                assert source.head == DATA[: len(source.head)]
        else:
            with pytest.raises((expected, SourceError)):
                open_source(fault_proxy.url + path, options=OPTIONS)
        assert time.monotonic() - began < PATIENT
        assert len(fault_proxy.ranged) <= 40
