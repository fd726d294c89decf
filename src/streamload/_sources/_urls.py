"""What the text of a URL says, and what of it may be shown.

Floor 1, part of `_sources`; pure. Query strings hold signatures and user info holds passwords: what this package shows
of a URL has gone through `redact`, what it shows of another library's error through `scrub`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

LOCAL = ("", "file")
"""Schemes that stand for a local file: none at all, and `file:`."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|file:", re.IGNORECASE)
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://[^:]*)?::")
_QUERY = re.compile(r"(?<=://)([^\s'\"<>/?#@]*@)?([^\s'\"<>?#]*)[?#][^\s'\"<>]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_USER = re.compile(r"(?<=://)[^\s'\"<>/?#@]*@")


def scheme_of(url: str | os.PathLike[str]) -> str:
    """Return the scheme in lower case: "" for a path, "::" for a chain as fsspec knows it (`simplecache::s3://…`)."""
    if not isinstance(url, str):
        return ""
    if "://" in url and _CHAIN.match(url):
        return "::"
    match = _SCHEME.match(url)
    return "" if match is None else (match[1] or "file").lower()


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether a path or URL stands for something that is not a local file."""
    return scheme_of(url) not in LOCAL


def redact(url: str) -> str:
    """Return a URL without what must not be shown: user info, query and fragment; a path as it is."""
    scheme = scheme_of(url)
    if scheme in LOCAL:
        return url
    return "::".join([_redact_one(part) for part in url.split("::")]) if scheme == "::" else _redact_one(url)


def _redact_one(url: str) -> str:
    head, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    place, slash, path = rest.partition("/")
    return f"{head}://{place.rpartition('@')[2] if head.lower() not in _NO_USER else place}{slash}{path}"


def why_not_sent(name: str, value: str) -> str | None:
    """Say why a header cannot be sent (RFC 9110 section 5.5), without what it says; None where it can be."""
    if not _TOKEN.fullmatch(name):
        return "the name of a header has characters that none may have"
    if not _VALUE.fullmatch(value):
        return f"the header {name} has line ends, control characters or other characters that none may have"
    return None


_NO_USER = ("hf", "abfs", "abfss")
"""Schemes whose `@` is no user info: hf://org/name@revision, abfs://container@account.host/path."""


def scrub(text: str) -> str:
    """Return another library's text with user info and query strings of URLs in it cut out."""
    return _USER.sub("", _QUERY.sub(r"\2", text))


def join(url: str, name: str) -> str:
    """Return the URL of a name under another URL; a query stays at the end, and what a chain goes on with."""
    before, own, after = _own_part(url)
    head, separator, rest = own.partition("://")
    rest, mark, query = rest.partition("?")
    rest = rest.rstrip("/")
    return f"{before}{head}{separator}{rest}{'/' if rest else ''}{name}{mark}{query}{after}"


def split(url: str) -> tuple[str, str]:
    """Return the URL of the directory that something is in, and its name there; the counterpart of `join`."""
    if scheme_of(url) in ("http", "https"):
        url = url.partition("#")[0]  # never sent; elsewhere a name may have the sign
    before, own, after = _own_part(url)
    head, separator, rest = own.partition("://")
    rest, mark, query = rest.partition("?")
    directory, _, name = rest.rstrip("/").rpartition("/")
    return f"{before}{head}{separator}{directory}{mark}{query}{after}", name


def _own_part(url: str) -> tuple[str, str, str]:
    """Take a chain apart at the part whose path it is about: the first that has one."""
    if scheme_of(url) != "::":
        return "", url, ""
    parts = url.split("::")
    number = next((number for number, part in enumerate(parts) if "://" in part), 0)
    return (
        "".join([f"{part}::" for part in parts[:number]]),
        parts[number],
        "".join([f"::{part}" for part in parts[number + 1 :]]),
    )
