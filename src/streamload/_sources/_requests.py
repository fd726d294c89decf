"""Ask for ranges of one object until they have come: redirects, new signatures, tries, and typed errors in the end.

Floor 1, part of `_sources`. The policy is `_retry`'s; what is sent goes through `_connections`. Read next: `_http`.
"""

from __future__ import annotations

import errno
import random
import re
import socket
import threading
import time
from http.client import HTTPException, IncompleteRead
from typing import TYPE_CHECKING, NoReturn

from ..errors import ChangedError, SourceError, StreamClosedError
from ._retry import DENIED, GONE, MOVED, RETRIED, THROTTLED, Broken, Unbelieved, backoff, parse_retry_after
from ._urls import scrub, why_not_sent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._answers import Answer
    from ._connections import Connections
    from ._signers import Address, Signed

_MOST_HOPS = 8
_MOST_UNBELIEVED = 3
_FIRST_TRIES = 4  # to reach a server that has never answered: a wrong name shows at once
_CODE = re.compile(rb"<(?:Code|code)>([A-Za-z0-9._-]{1,80})</")


class RequestCounts:
    """Count what was asked of a store, by the names of `LoadStats`; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("requests", "retries", "resumes", "throttled", "renewals"), 0)

    def add(self, *names: str) -> None:
        """Count one more of each."""
        with self._lock:
            for name in names:
                self._counts[name] += 1

    def as_dict(self) -> dict[str, int]:
        """Return the counts so far, by name."""
        with self._lock:
            return dict(self._counts)


class Requests:
    """Send requests for one object; thread-safe.

    Attributes:
        reached: Whether the server has ever answered with bytes.
        counts: What was asked.

    Args:
        url: What errors call the object.
        address: How it is asked for.
        connections: What requests go through.
        closing: Set when its user closes: nobody waits for another try then.
    """

    def __init__(self, url: str, address: Address, connections: Connections, closing: threading.Event) -> None:
        self.url = url
        self.address = address
        self.connections = connections
        self.policy = connections.policy
        self.closing = closing
        self.reached = False
        self.counts = RequestCounts()

    def run(
        self,
        wanted: Callable[[], tuple[int, int]],
        take: Callable[[Answer, tuple[int, int]], None],
        *,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        """Ask for what is wanted until `take` has read it.

        Args:
            wanted: Returns the range that is still missing, half-open.
            take: Reads an answer of status 200, 206 or 416; raises `Broken`, `Unbelieved` or an `OSError` where the
                rest must be asked for again.
            conditions: Headers by which the server refuses another version than the one that is wanted.

        Raises:
            FileNotFoundError: There is no such object.
            PermissionError: The store denies it.
            ChangedError: It is of another version by now.
            SourceError: It could not be read.
            StreamClosedError: Closed while it was waited for.
        """
        tries = _Tries(self, wanted)
        while True:
            signed = self.address.current()
            asked = wanted()
            headers = dict(signed.headers)
            for name, value in headers.items():
                if (wrong := why_not_sent(name, value)) is not None:
                    raise SourceError(f"{self.url}: {wrong}", url=self.url)
            headers |= {"Range": f"bytes={asked[0]}-{asked[1] - 1}", **(conditions or {})}
            self.counts.add("requests")
            try:
                with self.connections.request(signed.url, headers, on_repeat=self._count_repeat) as response:
                    if response.status in (200, 206, 416):
                        take(response, asked)
                        self.reached = True
                        return
                    tries.answered(signed, response)
            except (Broken, Unbelieved, HTTPException, OSError) as error:
                if isinstance(error, (SourceError, FileNotFoundError, PermissionError)):
                    raise
                tries.failed(error)

    def _count_repeat(self) -> None:
        self.counts.add("requests", "retries")


class _Tries:
    """Count what went wrong with one range, wait before the next try, and raise when there is none."""

    def __init__(self, requests: Requests, wanted: Callable[[], tuple[int, int]]) -> None:
        self._requests = requests
        self._wanted = wanted
        self._whole = wanted()
        self._at = self._whole[0]
        self._since = time.monotonic()  # the last byte
        self._count = self._failures = self._unbelieved = self._hops = self._renewals = 0

    def answered(self, signed: Signed, response: Answer) -> None:
        """Act on an answer without the bytes: return to ask again, or raise."""
        requests, status = self._requests, response.status
        self._count += 1
        if status in MOVED and (location := response.headers.get("Location")):
            response.read_little()
            self._hops += 1
            if self._hops > _MOST_HOPS:
                self._raise(f"more than {_MOST_HOPS} redirects", None)
            try:
                requests.address.follow(signed, location)
            except ValueError as error:
                self._raise(str(error), None)
            return
        code = _code(response)
        if status in RETRIED or (status == 400 and code == " RequestTimeout"):
            if status in THROTTLED:
                requests.counts.add("throttled")
            said = parse_retry_after(response.headers.get("Retry-After"), time.time())
            self._wait(f"status {status}{code}", None, retry_after=said)
            return
        stale = status in DENIED or (status in GONE and requests.reached) or status in (301, 400)
        if stale and self._renewals < 2:
            self._renewals += 1
            if requests.address.refused(signed, status, dict(response.headers)):
                requests.counts.add("renewals", "retries")
                return
        _raise_status(requests.url, self._whole, status, code)

    def failed(self, error: BaseException) -> None:
        """Wait before the next try, or raise because there is none."""
        self._count += 1
        reason, number = _why(error)
        if _is_certificate_error(error):
            self._raise(
                f"{reason}; to trust a certificate authority of your own, name its file "
                "(storage_options={'client_kwargs': {'verify': '/path/ca.pem'}} for s3, {'verify': …} for https)",
                number,
            )
        if isinstance(error, Unbelieved):
            self._unbelieved += 1
            if self._unbelieved >= _MOST_UNBELIEVED:
                self._raise(reason, number)
        if not self._requests.reached and self._failures + 1 >= _FIRST_TRIES and _is_unreachable(error):
            self._raise(reason, number)
        self._wait(reason, number)

    def _wait(self, reason: str, number: int | None, *, retry_after: float | None = None) -> None:
        policy = self._requests.policy
        now, at = time.monotonic(), self._wanted()[0]
        if at > self._at:
            self._at, self._since, self._failures = at, now, 0
        self._failures += 1
        seconds = backoff(policy, self._failures, random.random(), retry_after)
        if now + seconds > self._since + policy.retry_seconds:
            self._raise(reason, number)
        if self._requests.closing.wait(seconds):
            raise StreamClosedError(f"{self._requests.url}: closed while it was read")
        self._requests.counts.add("retries", *(["resumes"] if at > self._whole[0] else []))

    def _raise(self, reason: str, number: int | None) -> NoReturn:
        start, end = self._whole
        done = self._wanted()[0] - start
        raise SourceError(
            f"{self._requests.url}: reading {end - start} bytes at offset {start} failed after {self._count} "
            f"requests and {done} bytes: {reason}",
            url=self._requests.url,
            offset=start,
            nbytes=end - start,
            errno=number,
        ) from None


def _raise_status(url: str, asked: tuple[int, int], status: int, code: str) -> NoReturn:
    if status in GONE:
        raise FileNotFoundError(errno.ENOENT, f"no such object (status {status}{code})", url)
    if status in DENIED or code == " AccessDenied":
        raise PermissionError(
            errno.EACCES,
            f"the store denies access (status {status}{code}): the credentials are wrong or missing, or do not allow "
            "to read it; some stores say so of objects that do not exist, too",
            url,
        )
    if status == 412:
        raise ChangedError(
            f"{url}: the object changed under the load: it is no longer the version whose header was read (status 412)",
            url=url,
            offset=asked[0],
            nbytes=asked[1] - asked[0],
        )
    raise SourceError(
        f"{url}: reading {asked[1] - asked[0]} bytes at offset {asked[0]} failed: unexpected status {status}{code}",
        url=url,
        offset=asked[0],
        nbytes=asked[1] - asked[0],
    )


def _code(response: Answer) -> str:
    """Return the error code in an answer's XML, after a blank; nothing else of it may be shown."""
    try:
        match = _CODE.search(response.read_little())
    except (OSError, HTTPException):
        return ""
    return "" if match is None else f" {match[1].decode()}"


def _why(error: BaseException) -> tuple[str, int | None]:
    """Return the text and the error number of a failed try."""
    if isinstance(error, IncompleteRead):
        return "the connection ended early", errno.ECONNRESET
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "no byte came in time", errno.ETIMEDOUT
    if isinstance(error, OSError):
        number = error.errno if error.errno and error.errno > 0 and not isinstance(error, socket.gaierror) else None
        return scrub(error.strerror or str(error) or type(error).__name__), number
    if isinstance(error, HTTPException):  # its text may quote the request, or what a server sent
        return type(error).__name__, None
    return scrub(str(error) or type(error).__name__), None


def _is_certificate_error(error: BaseException) -> bool:
    return type(error).__name__ == "SSLCertVerificationError"  # by name: ssl is only imported where it is used


def _is_unreachable(error: BaseException) -> bool:
    return isinstance(error, (socket.gaierror, ConnectionRefusedError))
