"""What is asked of a store again, when, and for how long: the policy, as pure functions.

Floor 1, part of `_sources`; knows no sockets. The native engine (csrc/http) follows the same rules with the same
numbers. Read next: `_transfer`, which carries them out.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

RETRIED: Final = frozenset((408, 429, 500, 502, 503, 504))
"""Answers that may be another one the next time."""

THROTTLED: Final = frozenset((429, 503))
"""Of them, those that say: too many."""

DENIED: Final = frozenset((401, 403))
"""Answers to a signature that is refused, or too old."""

GONE: Final = frozenset((404, 410))
"""Answers for what is not there."""

MOVED: Final = frozenset((301, 302, 303, 307, 308))
"""Answers that name another place."""

IGNORED_RANGE: Final = (
    "status 200, so the range was ignored; the server cannot read parts of an object: use a server that serves ranges, "
    "or download the files first"
)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")
_MOST_RETRY_AFTER_SECONDS: Final = 30.0  # a server that asks for more is asked before that all the same


class Broken(Exception):
    """Say why an answer is given up, to be asked for again."""


class Unbelieved(Exception):
    """Say why an answer cannot be the right one, whatever its status."""


class HttpPolicy(NamedTuple):
    """Choose how long is waited for what.

    Attributes:
        connect_seconds: Most time to reach a server.
        stall_seconds: A request that brings no byte for so long is given up and sent again.
        retry_seconds: Requests are sent again until no byte has come for so long.
        first_backoff_seconds: Most time that is waited before the second try.
        most_backoff_seconds: Most time that is waited before any try.
        hedge: Whether slow requests are sent twice.
        verify_tls: Whether the certificates of servers are checked.
    """

    connect_seconds: float = 10.0
    stall_seconds: float = 20.0
    retry_seconds: float = 60.0
    first_backoff_seconds: float = 0.1
    most_backoff_seconds: float = 5.0
    hedge: bool = True
    verify_tls: bool = True


def backoff(policy: HttpPolicy, failures: int, chance: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before the next try: exponential with full jitter.

    Args:
        policy: The limits.
        failures: Tries that have failed in a row, from 1 on.
        chance: A random number from 0 to 1.
        retry_after: Seconds that the server asked for, which are waited at least.
    """
    doubled = policy.first_backoff_seconds * 2.0 ** min(failures - 1, 30)
    wait = chance * min(policy.most_backoff_seconds, doubled)
    return wait if retry_after is None else max(wait, min(retry_after, _MOST_RETRY_AFTER_SECONDS))


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for (RFC 9110 section 10.2.3); None for what is none.

    Args:
        text: Seconds or a date.
        now: Seconds since 1970.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime  # rarely needed

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def parse_content_range(text: str | None) -> tuple[int, int, int] | None:
    """Return start, end (half-open) and total of a `Content-Range: bytes a-b/total`; None for anything else."""
    match = _CONTENT_RANGE.fullmatch((text or "").strip())
    if match is None or any(len(part) > 18 for part in match.groups()):
        return None
    start, last, total = (int(part) for part in match.groups())
    return (start, last + 1, total) if start <= last < total else None


def parse_unsatisfied(text: str | None) -> int | None:
    """Return the length that a `Content-Range: bytes */total` of a 416 names."""
    match = _UNSATISFIED.fullmatch((text or "").strip())
    return int(match[1]) if match is not None and len(match[1]) <= 18 else None


def why_not_believed(
    asked: tuple[int, int], status: int, content_range: str | None, length: str | None, nbytes: int | None
) -> str | None:
    """Say what is wrong with a successful answer to a range; None where it may be read.

    Args:
        asked: The range, half-open.
        status: 206 or 200.
        content_range: The answer's `Content-Range`.
        length: The answer's `Content-Length`; None where it has none.
        nbytes: Length of the object when it was opened.
    """
    start, end = asked
    if status == 200:
        if (start, end) != (0, nbytes):
            return IGNORED_RANGE
    else:
        got = parse_content_range(content_range)
        if got is None or got[:2] != asked:
            return f"Content-Range {content_range!r}, expected bytes {start}-{end - 1}"
    if length is not None and length.strip() != str(end - start):
        return f"Content-Length {length!r}, expected {end - start}"
    return None
