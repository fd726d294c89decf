"""Read one object of any store that speaks HTTP, a range at a time, pinned to the version that was opened.

Floor 1, part of `_sources`. One ranged GET opens it and brings its first bytes, where the header is. Where libcurl can
be loaded the engine takes only the address from here and reads by itself (csrc/http); else `read_into` does, by the
same policy. Read next: `_requests`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .._closing import Closing
from ..errors import ChangedError, StreamClosedError
from ._retry import (
    IGNORED_RANGE,
    Broken,
    HttpPolicy,
    Unbelieved,
    parse_content_range,
    parse_unsatisfied,
    why_not_believed,
)
from ._signers import Address, Signed, Signer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from typing_extensions import Self

    from .._native import CacheFile
    from ._answers import Answer
    from ._connections import Connections

HEAD_BYTES = 256 << 10
"""What is asked for to open an object, in bytes: most headers fit, and it comes within one round trip or two."""

_STEP_BYTES = 64 << 10  # of a body of unknown length, what came is counted this often

READ_CONCURRENCY = 16
"""Threads that should read one source through `read_into`: a store gives each connection some 50 to 90 MB/s."""


class HttpSource(Closing):
    """Read one object of a store; a context manager.

    Any number of threads may read at once; a close beside them takes effect when they have read. Opened again
    (`reopen`) it needs no request: the version is pinned.

    Attributes:
        head: First bytes of the object, which came when it was opened; empty once `forget_head` was called.
        read_concurrency: How many threads should read at once.
        cache: A file that the engine reads from and puts into what it fetches; None: none. `read_into` knows nothing of
            it: a `TieredSource` around this one does.

    Args:
        signer: How the object is asked for.
        connections: What requests go through; shared with other sources.
        url: What error messages call the object: without query and user info.
        head_bytes: How many bytes to ask for first.

    Raises:
        FileNotFoundError: There is no such object.
        PermissionError: The store denies it.
        SourceError: It cannot be read, or the server cannot read parts of an object.
    """

    read_concurrency = READ_CONCURRENCY

    def __init__(
        self,
        signer: Signer,
        connections: Connections,
        *,
        url: str,
        head_bytes: int = HEAD_BYTES,
    ) -> None:
        from ._requests import Requests  # brings http.client, 15 ms, which local files do without

        self._closing = threading.Event()
        self._requests = Requests(url, Address(signer), connections.retain(), connections.stopping)
        self._nbytes = 0
        self._secure = False  # whether the bytes come through TLS
        self._etag = self._version = self._media_type = self._modified = ""
        self.head = b""
        self.cache: CacheFile | None = None
        try:
            self._requests.run(lambda: (0, head_bytes), self._take_first)
        except BaseException:
            self.close()
            raise
        self._secure = self._requests.address.current().url.startswith("https:")
        self._requests.reached = True
        self._requests.closing = self._closing  # from now on somebody can close it

    def _take_first(self, response: Answer, asked: tuple[int, int]) -> None:
        """Learn length and version from the first answer, and keep its bytes."""
        headers = response.headers
        if response.status == 416:  # nothing but an empty object has no first byte
            if parse_unsatisfied(headers.get("Content-Range")) not in (0, None):
                raise Unbelieved("status 416 for the first bytes of an object that has some")
            response.read_little()
            return
        if response.status == 206:
            got = parse_content_range(headers.get("Content-Range"))
            total = None if got is None else got[2]
        else:
            length = (headers.get("Content-Length") or "").strip()
            total = int(length) if length.isascii() and length.isdigit() and len(length) <= 18 else None
        if total is None:
            raise Unbelieved(f"status {response.status} without the object's length")
        first = (0, min(asked[1], total))
        wrong = why_not_believed(
            first, response.status, headers.get("Content-Range"), headers.get("Content-Length"), total
        )
        if wrong is None and response.status == 200 and total > asked[1]:
            wrong = IGNORED_RANGE
        if wrong is not None:
            raise Unbelieved(wrong)
        _check_encoding(response)
        data = bytearray(first[1])
        _fill(response, memoryview(data))
        self._nbytes, self.head = total, bytes(data)
        self._media_type = headers.get_content_type()
        self._version = headers.get("ETag", "").strip()
        self._modified = _date(headers.get("Last-Modified"))
        # A weak one says that the bytes may differ (RFC 9110 section 8.8.3), and never matches If-Match.
        self._etag = "" if self._version.startswith("W/") else self._version

    @property
    def url(self) -> str:
        """What error messages call the object."""
        return self._requests.url

    @property
    def nbytes(self) -> int:
        """Length of the object in bytes when it was opened."""
        return self._nbytes

    @property
    def etag(self) -> str:
        """Version of the object when it was opened, as the header `ETag` gave it; "" where there is no strong one."""
        return self._etag

    @property
    def media_type(self) -> str:
        """What the server said that the bytes are, such as "text/html"; "" of an empty object."""
        return self._media_type

    @property
    def answer_etag(self) -> str:
        """What each answer's header `ETag` is compared with, weak ones included; "" where there is none."""
        return self._version

    @property
    def policy(self) -> HttpPolicy:
        """How long is waited, and how often is asked again; a tuple in the order that `_native.http_source` takes."""
        return self._requests.policy

    @property
    def request_counts(self) -> dict[str, int]:
        """What was asked from Python so far, by the names of `LoadStats`."""
        return self._requests.counts.as_dict()

    @property
    def by_python(self) -> bool:
        """Whether only `read_into` can read it, because the native engine knows nothing of what it takes.

        That is a proxy, a version that is told by its date alone, or authorities in a directory.
        """
        if (self._modified and not self._version) or not self._version.isascii():
            return True
        connections = self._requests.connections
        return bool(connections.proxies) or (self._secure and not connections.native_authorities()[1])

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def request(self) -> tuple[str, list[str], str]:
        """Return what a request consists of now: signed URL, header lines to add, file of trusted authorities or "".

        Works after `close`, too. Not to be shown.

        Raises:
            PermissionError: There are no credentials.
        """
        url, lines = _lines(self._settled(self._requests.address.current()))
        connections = self._requests.connections
        return url, lines, connections.native_authorities()[0] if self._secure else connections.ca_file

    def renew(self, status: int) -> tuple[str, list[str]]:
        """Return another signed URL and its header lines, once one was refused with `status` (0: it is old).

        Works after `close`, too, and from any thread. Not to be shown. Blocks for as long as who signs, and for a
        request where the object is behind a redirect.

        Raises:
            PermissionError: There are no credentials.
            FileNotFoundError, ChangedError, SourceError: The redirect could not be followed.
        """
        address = self._requests.address
        return _lines(self._settled(address.renew(address.current())))

    def _settled(self, signed: Signed) -> Signed:
        """Return where a redirect leads, if this object's address is one: it is asked for a byte."""
        mine = self._requests
        if not mine.address.unsettled:
            return signed
        asking = type(mine)(self.url, mine.address, mine.connections, threading.Event())
        asking.reached = True
        asking.run(lambda: (0, 1), lambda response, asked: None, conditions=self._conditions())
        return mine.address.current()

    def forget_head(self) -> None:
        """Let go of the first bytes, once the header was read."""
        self.head = b""

    def reopen(self) -> Self:
        """Open the same version of the object once more, also where this source is closed; asks nobody."""
        again = object.__new__(type(self))
        again._closing = threading.Event()
        mine = self._requests
        again._requests = type(mine)(self.url, mine.address, mine.connections.retain(), again._closing)
        again._requests.reached = True
        again._nbytes, again._etag, again._version = self._nbytes, self._etag, self._version
        again._media_type, again._modified, again._secure = self._media_type, self._modified, self._secure
        again.head, again.cache = b"", self.cache
        return again

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        """Fill `buffer` from byte `offset` on and return how many bytes came; blocks.

        Fewer than asked for means that the object ends there.

        Raises:
            ValueError: `offset` is negative.
            FileNotFoundError: The object is gone.
            PermissionError: It may no longer be read.
            ChangedError: It is of another version by now.
            SourceError: It could not be read for `retry_seconds`.
            StreamClosedError: The source is closed.
        """
        if offset < 0:
            raise ValueError(f"{self.url}: expected an offset from 0 on, got {offset}")
        if self.closed:
            raise StreamClosedError(f"{self.url}: the object is closed")
        view = memoryview(buffer).cast("B")[: max(0, self._nbytes - offset)]
        if not len(view):
            return 0
        reading = _Reading(self, offset, view)
        self._requests.run(reading.wanted, reading.take, conditions=self._conditions())
        return len(view)

    def check_answer(self, response: Answer, asked: tuple[int, int]) -> None:
        """Raise unless an answer is the range asked for, of the version that was opened."""
        headers = response.headers
        told, found_version = self._version or self._modified, _version_in(headers, by_date=not self._version)
        total = self._nbytes
        if response.status == 416:
            total = -1
        elif response.status == 206 and (got := parse_content_range(headers.get("Content-Range"))):
            total = got[2]
        elif response.status == 200 and (whole := (headers.get("Content-Length") or "").strip()).isdigit():
            total = int(whole[:18])
        if total != self._nbytes or (found_version and told and found_version != told):
            found = f"{total} bytes" if total >= 0 else "too few bytes for the range"
            raise ChangedError(
                f"{self.url}: the object changed under the load: expected {self._nbytes} bytes of version "
                f"{told or '(none)'}, found {found} of version {found_version or '(none)'}",
                url=self.url,
                offset=asked[0],
                nbytes=asked[1] - asked[0],
            )
        length = headers.get("Content-Length")
        wrong = why_not_believed(asked, response.status, headers.get("Content-Range"), length, self._nbytes)
        if wrong is not None:
            raise Unbelieved(wrong)
        if told and not found_version:
            raise Unbelieved(f"the answer does not tell the version, the object had {told}")
        _check_encoding(response)

    def _conditions(self) -> dict[str, str]:
        """Return the headers by which a server refuses a range of another version."""
        if self._etag:
            return {"If-Match": self._etag}
        return {"If-Unmodified-Since": self._modified} if self._modified else {}

    def close(self) -> None:
        """Let go of the connections. Harmless when repeated."""
        if not self._closing.is_set():
            self._closing.set()
            self._requests.connections.release()

    def __del__(self) -> None:
        if hasattr(self, "_requests"):
            self.close()

    def __repr__(self) -> str:
        return f"HttpSource({self.url!r}, nbytes={self.nbytes}{', closed' if self.closed else ''})"


class _Reading:
    """One range on its way into a buffer."""

    def __init__(self, source: HttpSource, offset: int, view: memoryview) -> None:
        self._source = source
        self._offset = offset
        self._view = view
        self._done = 0

    def wanted(self) -> tuple[int, int]:
        """Return the range that is still missing."""
        return self._offset + self._done, self._offset + len(self._view)

    def take(self, response: Answer, asked: tuple[int, int]) -> None:
        """Read an answer into the buffer as far as it comes."""
        self._source.check_answer(response, asked)
        for count in _counts(response, self._view[self._done :]):
            self._done += count
        _check_end(response)


def _version_in(headers: Message, *, by_date: bool) -> str:
    return _date(headers.get("Last-Modified")) if by_date else headers.get("ETag", "").strip()


def _date(text: str | None) -> str:
    """Return a date as it may be sent back; "" for what is none."""
    text = (text or "").strip()
    return text if text.isascii() and text.isprintable() else ""


def _lines(signed: Signed) -> tuple[str, list[str]]:
    return signed.url, [f"{name}: {value}" for name, value in signed.headers]


def _fill(response: Answer, view: memoryview) -> None:
    for _ in _counts(response, view):
        pass
    _check_end(response)


def _counts(response: Answer, view: memoryview) -> Iterator[int]:
    """Read a body into a buffer; yield how many bytes came each time."""
    done = 0
    response.expect_bytes()
    while done < len(view):
        rest = view[done:]
        if response.chunked or response.length is None:
            count = response.readinto(rest[:_STEP_BYTES])
        else:  # `HTTPResponse.readinto` comes back when all is there, and a reset would lose what came before it
            count = response.fp.readinto1(rest[: response.length])
            response.length -= count
        if not count:  # http.client says no more of a body that ends early
            raise Broken(f"the body ended {len(rest)} bytes early")
        done += count
        yield count


def _check_end(response: Answer) -> None:
    """Make sure that nothing follows, so that the connection may serve again."""
    response.expect_end()
    if not response.isclosed() and response.read(1):
        raise Broken("more bytes than asked for")


def _check_encoding(response: Answer) -> None:
    encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "aws-chunked", ""):
        raise Unbelieved(f"Content-Encoding {encoding!r}, so the bytes are not those of the object")
