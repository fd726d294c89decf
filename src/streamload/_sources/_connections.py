"""Connections to servers, kept open between requests: `http.client`, a pool, TLS, a proxy if one is named.

Floor 1, part of `_sources`; knows no policy: a request works or raises. Read next: `_requests`, which asks again.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from base64 import b64encode
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ._answers import Answer
from ._urls import redact

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    from ._retry import HttpPolicy

_MOST_IDLE = 64  # connections kept open to one server


class Connections:
    """Send requests to any number of servers; thread-safe. Those in a forked child are the child's own.

    Raises ValueError where a proxy is no URL of a server.

    Args:
        policy: How long is waited, and whether certificates are checked.
        ca_file: Certificates of the authorities to trust, as PEM; "" for the system's.
        proxies: Scheme to the URL of the proxy that its requests go through.
    """

    def __init__(self, policy: HttpPolicy, *, ca_file: str = "", proxies: Mapping[str, str] | None = None) -> None:
        self.policy = policy
        self.ca_file = ca_file
        self.proxies = dict(proxies or {})
        for proxy in self.proxies.values():
            check_place(proxy)
        self._context: ssl.SSLContext | None = None
        self._idle: dict[tuple[str, str], list[HTTPConnection]] = {}
        self._busy: set[HTTPConnection] = set()
        self._owner = os.getpid()
        self._users = 0
        self._lock = threading.Lock()  # guards the five above
        self.stopping = threading.Event()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)

    def retain(self) -> Connections:
        """Count one more user, who must `release`."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Count one user less; with the last one, connections that carry nothing are closed."""
        with self._lock:
            self._users -= 1
            idle = dict(self._idle) if self._users <= 0 else {}
            if self._users <= 0:
                self._idle.clear()
        _close_all(idle)

    def native_authorities(self) -> tuple[str, bool]:
        """Return which file of authorities another TLS library must be given, and whether that is all that is trusted.

        The environment can name them (`SSL_CERT_FILE`, `SSL_CERT_DIR`), which Python's `ssl` heeds and libcurl may not.
        """
        if self.ca_file or not self.policy.verify_tls:
            return self.ca_file, True
        import ssl  # as above

        paths = ssl.get_default_verify_paths()
        file = paths.cafile if paths.cafile != paths.openssl_cafile else None
        folder = paths.capath if paths.capath != paths.openssl_capath else None
        return file or "", folder is None

    def stop(self) -> None:
        """End what is under way, from any thread: who reads gets an error at once. Nothing can be sent any more."""
        self.stopping.set()
        with self._lock:
            sockets = [connection.sock for connection in self._busy]
        for each in sockets:
            if each is not None:
                with suppress(OSError):  # not SSLSocket's, which takes the TLS state from under the reader
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    @contextmanager
    def request(
        self, url: str, headers: Mapping[str, str], *, on_repeat: Callable[[], None] | None = None
    ) -> Iterator[Answer]:
        """Send a GET and give out its answer, whose body the caller reads; it is closed with the block.

        A connection whose answer was read to its end serves the next request.

        Args:
            url: What is asked for.
            headers: What is sent beside a `User-Agent`.
            on_repeat: Called where the server had closed a kept connection, before the request goes out on a new one.

        Raises:
            OSError, http.client.HTTPException: It could not be sent, or brought no answer.
        """
        parts = urlsplit(url)
        key = (parts.scheme, parts.netloc)
        connection, response = self._send(key, url, headers, on_repeat)
        try:
            yield response
        except BaseException:
            connection.close()
            response.close()
            raise
        finally:
            with self._lock:
                self._busy.discard(connection)
        if response.isclosed() and connection.sock is not None:
            self._keep(key, connection)
        else:
            connection.close()
            response.close()

    def _send(
        self, key: tuple[str, str], url: str, headers: Mapping[str, str], on_repeat: Callable[[], None] | None
    ) -> tuple[HTTPConnection, Answer]:
        kept = self._take(key)
        if kept is not None:
            try:
                return kept, self._exchange(kept, url, headers)
            except (ConnectionError, HTTPException):  # closed by the server while it was idle, as are the others then
                kept.close()
                self._drop(key)
                if on_repeat is not None:
                    on_repeat()
            except BaseException:
                kept.close()
                raise
        connection = self._connect(key)
        try:
            return connection, self._exchange(connection, url, headers)
        except BaseException:
            connection.close()
            raise

    def _exchange(self, connection: HTTPConnection, url: str, headers: Mapping[str, str]) -> Answer:
        with self._lock:
            self._busy.add(connection)
        try:
            if self.stopping.is_set():
                raise HTTPException("stopped")
            connection.sock.settimeout(self.policy.stall_seconds)  # the last answer may have left less
            connection.request("GET", self._target(url), headers={"User-Agent": "streamload", **headers})
            response = connection.getresponse()
            assert isinstance(response, Answer)
            return response
        except BaseException:
            with self._lock:
                self._busy.discard(connection)
            raise

    def _connect(self, key: tuple[str, str]) -> HTTPConnection:
        if self.stopping.is_set():
            raise HTTPException("stopped")
        scheme, netloc = key
        parts = urlsplit(f"{scheme}://{netloc}")
        seconds = self.policy.connect_seconds
        proxy = urlsplit(self.proxies[scheme]) if scheme in self.proxies else None
        where = parts if proxy is None else proxy
        if not where.hostname:
            raise HTTPException(f"no host in {scheme}://{netloc}")
        if scheme == "https":
            connection: HTTPConnection = HTTPSConnection(
                where.hostname, where.port or (443 if proxy is None else 80), timeout=seconds, context=self._tls()
            )
            if proxy is not None:
                connection.set_tunnel(parts.hostname or "", parts.port or 443, headers=_proxy_headers(proxy.netloc))
        else:
            connection = HTTPConnection(where.hostname, where.port or 80, timeout=seconds)
        connection.response_class = Answer
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _target(self, url: str) -> str:
        """Return what a request names: the path, or all of it for a proxy of plain HTTP."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if parts.scheme == "http" and "http" in self.proxies:
            return f"http://{parts.netloc}{target}"
        return target

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                import ssl  # 5 ms, and plain HTTP does without

                self._context = ssl.create_default_context(cafile=self.ca_file or None)
                if not self.policy.verify_tls:
                    self._context.check_hostname = False
                    self._context.verify_mode = ssl.CERT_NONE
            return self._context

    def _take(self, key: tuple[str, str]) -> HTTPConnection | None:
        with self._lock:
            if self._owner != os.getpid():  # a fork's copies of the sockets are the parent's conversations
                inherited, self._owner = dict(self._idle), os.getpid()
                self._idle.clear()
                _close_all(inherited)
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def _keep(self, key: tuple[str, str], connection: HTTPConnection) -> None:
        with self._lock:
            idle = self._idle.setdefault(key, [])
            kept = self._users > 0 and len(idle) < _MOST_IDLE and self._owner == os.getpid()
            if kept:
                idle.append(connection)
        if not kept:
            connection.close()

    def _drop(self, key: tuple[str, str]) -> None:
        with self._lock:
            idle = self._idle.pop(key, [])
        _close_all({key: idle})


def _proxy_headers(netloc: str) -> dict[str, str]:
    user = netloc.rpartition("@")[0]
    return {"Proxy-Authorization": basic_authorization(*user.partition(":")[::2])} if user else {}


def check_place(url: str) -> None:
    """Make sure that a URL names a server.

    Raises:
        ValueError: Its host or port is none; without what must not be shown.
    """
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and bool(parts.hostname) and len((parts.hostname or "").encode("idna")) > 0
    except ValueError:  # UnicodeError, too
        good = False
    if not good:
        raise ValueError(f"{redact(url)!r}: expected a host, and a port from 1 to 65535 if any") from None


def basic_authorization(user: str, password: str) -> str:
    """Return the header value for user info as a URL has it, percent-encoded (RFC 7617)."""
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _close_all(idle: Mapping[tuple[str, str], list[HTTPConnection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            with suppress(OSError):
                connection.close()
