"""Options that are read from an environment."""

from __future__ import annotations

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
