"""What pins an object that has no strong ETag: weak ones and dates are compared, and a version that is missing."""

from __future__ import annotations

import json
import struct

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import open_source
from streamload.errors import ChangedError, SourceError

from .test_stores_http import DATA, Recorder, part, read

MONDAY, TUESDAY = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"
SHORT = StreamOptions(stall_seconds=0.5, retry_seconds=2.0)


def weights(fill: int) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [1 << 20], "data_offsets": [0, 1 << 20]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * (1 << 20)


def replaced(before: dict[str, str], after: dict[str, str]):
    """A server whose object is another one from the second request on."""
    return Recorder(lambda head, n: part(head, weights(1), **before) if n == 1 else part(head, weights(2), **after))


@pytest.mark.parametrize(
    ("before", "after"),
    [({"ETag": 'W/"1"'}, {"ETag": 'W/"2"'}), ({"Last_Modified": MONDAY}, {"Last_Modified": TUESDAY})],
    ids=["weak", "date"],
)
def test_replaced_object_is_never_mixed(before, after, tmp_path):
    with replaced(before, after) as server:  # a pull starts again, with the new object
        streamload.pull(f"{server.url}/m/x.safetensors", tmp_path, options=SHORT)
    assert (tmp_path / "m/x.safetensors").read_bytes() == weights(2)
    with (
        replaced(before, after) as server,
        open_source(f"{server.url}/x") as source,
        pytest.raises(ChangedError, match="version"),
    ):
        read(source, 500_000)


@pytest.mark.slow
@pytest.mark.parametrize("before", [{"ETag": '"1"'}, {"ETag": 'W/"1"'}, {"Last_Modified": MONDAY}])
def test_answer_that_tells_no_version_is_not_believed(before):
    with replaced(before, {}) as server, open_source(f"{server.url}/x", options=SHORT) as source:
        with pytest.raises(SourceError, match="does not tell the version") as caught:
            read(source, 500_000)
        assert not isinstance(caught.value, ChangedError)
        assert len(server.heads) == 4


def test_object_known_by_its_date_is_asked_for_by_it_and_read_by_python():
    with (
        Recorder(lambda head, _: part(head, Last_Modified=MONDAY)) as server,
        open_source(f"{server.url}/x") as source,
    ):
        assert source.by_python
        assert source.reopen().by_python
        assert read(source, 7) == DATA[7:1007]
        assert server.heads[-1].get("if-unmodified-since") == MONDAY


def test_weak_version_is_read_by_the_native_engine():
    with Recorder(lambda head, _: part(head, ETag='W/"1"')) as server, open_source(f"{server.url}/x") as source:
        assert (source.etag, source.answer_etag, source.by_python) == ("", 'W/"1"', False)


def test_object_of_no_version_at_all_is_read():
    with Recorder(lambda head, _: part(head)) as server, open_source(f"{server.url}/x") as source:
        assert read(source, 7) == DATA[7:1007]
        assert not source.by_python
