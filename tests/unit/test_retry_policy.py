"""What is asked again, when, and what of an answer is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from streamload._sources._retry import (
    HttpPolicy,
    backoff,
    parse_content_range,
    parse_retry_after,
    parse_unsatisfied,
    why_not_believed,
)

POLICY = HttpPolicy(first_backoff_seconds=0.1, most_backoff_seconds=5.0)


@given(some.integers(1, 1000), some.floats(0, 1))
def test_backoff_doubles_up_to_its_most_with_full_jitter(failures, chance):
    most = backoff(POLICY, failures, 1.0)
    assert most == min(5.0, 0.1 * 2.0 ** min(failures - 1, 30))
    assert backoff(POLICY, failures, chance) == pytest.approx(chance * most)


def test_server_may_ask_for_more_time_within_reason():
    assert backoff(POLICY, 1, 0.5, 2.0) == 2.0
    assert backoff(POLICY, 20, 1.0, 0.0) == 5.0
    assert backoff(POLICY, 1, 0.5, 86400.0) == 30.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("9" * 400, 999999999.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
    assert parse_retry_after(text, 60.0) == seconds


@given(some.integers(0, 10**17), some.integers(1, 10**17), some.integers(0, 10**17))
def test_content_range_is_read_as_it_is_written(start, nbytes, rest):
    total = start + nbytes + rest
    assert parse_content_range(f"bytes {start}-{start + nbytes - 1}/{total}") == (start, start + nbytes, total)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes */5",
        "bytes 0-4/*",
        "bytes 5-4/9",
        "bytes 0-9/9",
        "0-4/9",
        "bytes 0-4/9,",
        f"bytes 0-4/{10**30}",
    ],
)
def test_any_other_content_range_is_none(text):
    assert parse_content_range(text) is None


def test_unsatisfied_range_tells_the_length():
    assert parse_unsatisfied("bytes */0") == 0
    assert parse_unsatisfied("bytes 0-1/2") is None


@pytest.mark.parametrize(
    ("status", "content_range", "length", "says"),
    [
        (206, "bytes 10-19/100", "10", None),
        (206, "bytes 10-19/100", None, None),
        (206, "bytes 11-20/100", "10", "Content-Range 'bytes 11-20/100', expected bytes 10-19"),
        (206, "bytes 10-18/100", "9", "expected bytes 10-19"),
        (206, None, "10", "Content-Range None"),
        (206, "bytes 10-19/100", "9", "Content-Length '9', expected 10"),
        (200, None, "100", "the range was ignored"),
        (200, "bytes 10-19/100", "10", "the range was ignored"),
    ],
)
def test_only_the_range_asked_for_is_believed(status, content_range, length, says):
    wrong = why_not_believed((10, 20), status, content_range, length, 100)
    assert (wrong is None) if says is None else (says in wrong)


def test_whole_object_is_believed_where_all_of_it_was_asked_for():
    assert why_not_believed((0, 100), 200, None, "100", 100) is None
    assert "Content-Length" in why_not_believed((0, 100), 200, None, "99", 100)
