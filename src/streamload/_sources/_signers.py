"""How a request for an object is addressed and signed: the one seam between stores and the bytes.

Floor 1, part of `_sources`. A `Signer` knows one object; `Address` keeps what it said until that is too old or was
refused, and follows redirects, so that many requests share one signature.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRINTED = "".join(chr(code) for code in range(0x21, 0x7F))  # all that a URL may hold
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?|[0-9a-f:.]+")  # a name, or IPv6
_YOUNG_SECONDS = 30.0  # a signature that is refused at this age is refused for another reason than its age


@dataclass(frozen=True, slots=True)
class Signed:
    """Hold what a request for an object consists of.

    Attributes:
        url: With the signature, where the URL carries it. Not to be shown.
        headers: Name and value of each header to add. Not to be shown.
        good_seconds: How long it is used, well before the server takes it for too old; None: for ever.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    good_seconds: float | None = None

    def __repr__(self) -> str:
        return "Signed(…)"


class Signer(Protocol):
    """Say how one object is asked for."""

    def sign(self) -> Signed:
        """Return a fresh signature; may ask for credentials, and blocks then.

        Raises:
            PermissionError: There are no credentials.
        """
        ...

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take note of an answer that refused a signature, and say whether the next one may be accepted."""
        ...


class PlainSigner:
    """Ask for a URL as it is, with fixed headers.

    Args:
        url: The URL.
        headers: Name and value of each header.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self._signed = Signed(url, tuple((headers or {}).items()))

    def sign(self) -> Signed:
        """Return the URL."""
        return self._signed

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Say no: the next signature is the same."""
        return False


class Address:
    """Keep the signature of an object for all who ask for it; thread-safe.

    Args:
        signer: Who signs.
    """

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._lock = threading.Lock()  # guards those below
        self._current: Signed | None = None
        self._moved = False  # whether a redirect was followed to get there
        self._redirects = False  # whether one ever was
        self._signed_at = 0.0
        self._old_at: float | None = None

    @property
    def unsettled(self) -> bool:
        """Whether redirects have led elsewhere before, and a signature made since has not been sent yet."""
        with self._lock:
            return self._redirects and not self._moved

    def current(self) -> Signed:
        """Return a signature that is not too old, at the place where redirects have led."""
        with self._lock:
            if self._current is None or (self._old_at is not None and time.monotonic() >= self._old_at):
                return self._sign()
            return self._current

    def renew(self, used: Signed) -> Signed:
        """Return another signature than the one that was used: a new one, or what others have got meanwhile."""
        with self._lock:
            if self._current is not None and self._current is not used:
                return self._current
            return self._sign()

    def refused(self, used: Signed, status: int, headers: Mapping[str, str]) -> bool:
        """Sign again after a refusal, and say whether that may help."""
        with self._lock:
            if self._current is not None and self._current is not used:
                return True
            aged = time.monotonic() - self._signed_at > _YOUNG_SECONDS
            may_help = self._signer.refused(status, headers) or self._moved or aged
            self._sign()
            return may_help

    def follow(self, used: Signed, location: str) -> Signed:
        """Go where a redirect says. What was signed for one server is not told to another.

        Raises:
            ValueError: The place is no http(s) URL, or leads from https to http.
        """
        from urllib.parse import quote, urljoin, urlsplit  # 4 ms to import, and few callers need it

        try:
            url = urljoin(used.url, quote(location.strip(), safe=_PRINTED, encoding="latin-1", errors="replace"))
            before, after = urlsplit(used.url), urlsplit(url)
            good = after.scheme in ("http", "https") and after.port != 0 and "@" not in after.netloc
        except ValueError:
            good = False
        if not good or not _HOST.fullmatch(after.hostname or ""):
            raise ValueError("a redirect to what is no http or https URL")
        if before.scheme == "https" and after.scheme == "http":
            raise ValueError(f"a redirect from https to http ({after.hostname})")
        same = (before.scheme, before.netloc.lower()) == (after.scheme, after.netloc.lower())
        moved = Signed(url.partition("#")[0], used.headers if same else (), used.good_seconds)
        with self._lock:
            if self._current is used:
                self._current, self._moved, self._redirects = moved, True, True
        return moved

    def _sign(self) -> Signed:
        self._current = self._signer.sign()
        self._moved = False
        self._signed_at = time.monotonic()
        good = self._current.good_seconds
        self._old_at = None if good is None else time.monotonic() + good
        return self._current
