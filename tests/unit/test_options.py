"""Options that are read from an environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamload.options import StreamOptions


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("VERIFY", "must be true or false, got 'none'"),
        ("DIRECT_IO", "must be true, false or none, got 'maybe'"),
        ("CHUNK_BYTES", "must be a whole number, got 'none'"),
    ],
)
def test_only_what_is_allowed_is_offered(field, says):
    with pytest.raises(ValueError, match=f"STREAMLOAD_OPTION_{field} {says}"):
        StreamOptions.from_env({f"STREAMLOAD_OPTION_{field}": says.split("'")[1]})


def test_none_is_a_choice_where_it_is_the_default():
    assert StreamOptions.from_env({"STREAMLOAD_OPTION_DIRECT_IO": "none"}).direct_io is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("Yes", True), ("false", False), ("0", False), ("no", False)],
)
def test_truths_are_read_as_other_tools_read_them(text, value):
    entries = {f"STREAMLOAD_OPTION_{field}": text for field in ("OFFLINE", "DIRECT_IO")}
    options = StreamOptions.from_env({**entries, "STREAMLOAD_OPTION_CACHE_DIR": "/x/cache"})
    assert (options.offline, options.direct_io) == (value, value)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"device_memory": 0}, "device_memory must be from 1"),
        ({"device_memory": 1, "host_memory": -1}, "host_memory must be from 0"),
        ({"host_memory": 1}, "give device_memory too"),
    ],
)
def test_memory_that_makes_no_sense_is_refused(chosen, says):
    with pytest.raises(ValueError, match=says):
        StreamOptions(**chosen)


def test_debug_is_a_truth():
    with pytest.raises(TypeError, match="debug must be True or False"):
        StreamOptions(debug=1)


def test_seconds_and_paths_are_read_from_an_environment():
    entries = {
        "STREAMLOAD_OPTION_STALL_SECONDS": "2.5",
        "STREAMLOAD_OPTION_RETRY_SECONDS": "7",
        "STREAMLOAD_OPTION_CACHE_DIR": "/var/Cache",
        "STREAMLOAD_OPTION_CACHE_BYTES": "1000",
        "STREAMLOAD_OPTION_MEMORY_DIR": "none",
        "STREAMLOAD_OPTION_CONNECTIONS": "12",
        "STREAMLOAD_OPTION_OFFLINE": "true",
    }
    options = StreamOptions.from_env(entries)
    assert (options.stall_seconds, options.retry_seconds) == (2.5, 7.0)
    assert (options.cache_dir, options.cache_bytes, options.memory_dir) == ("/var/Cache", 1000, None)
    assert (options.connections, options.offline) == (12, True)
    with pytest.raises(ValueError, match="STALL_SECONDS must be a number"):
        StreamOptions.from_env({"STREAMLOAD_OPTION_STALL_SECONDS": "soon"})


@pytest.mark.parametrize(
    ("chosen", "error", "says"),
    [
        ({"connections": 0}, ValueError, "connections must be from 1"),
        ({"stall_seconds": 0}, ValueError, "stall_seconds must be from 0.001"),
        ({"stall_seconds": float("nan")}, ValueError, "stall_seconds must be from"),
        ({"retry_seconds": "1"}, TypeError, "retry_seconds must be a number"),
        ({"retry_seconds": True}, TypeError, "retry_seconds must be a number"),
        ({"cache_dir": ""}, ValueError, "cache_dir must be the path of a directory"),
        ({"memory_dir": 3}, TypeError, "memory_dir must be a path"),
        ({"cache_bytes": 1}, ValueError, "give cache_dir too"),
        ({"memory_dir": "/x", "memory_bytes": 0}, ValueError, "memory_bytes must be from 1"),
        ({"cache_dir": b"/x"}, TypeError, "cache_dir must be a path"),
        ({"offline": True}, ValueError, "offline needs cache_dir or memory_dir"),
        ({"offline": None}, TypeError, "offline must be True or False"),
    ],
)
def test_stores_are_not_waited_for_in_senseless_ways(chosen, error, says):
    with pytest.raises(error, match=says):
        StreamOptions(**chosen)


def test_whole_seconds_are_the_same_options():
    assert StreamOptions(stall_seconds=3) == StreamOptions(stall_seconds=3.0)
    assert isinstance(StreamOptions(stall_seconds=3).stall_seconds, float)


def test_directories_may_be_paths():
    options = StreamOptions(cache_dir=Path("/x/cache"), memory_dir=Path("/x/memory"))
    assert (options.cache_dir, options.memory_dir) == ("/x/cache", "/x/memory")
    assert options == StreamOptions(cache_dir="/x/cache", memory_dir="/x/memory")
