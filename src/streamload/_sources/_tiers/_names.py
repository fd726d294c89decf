"""What an object is found by again in a tier: its URL, and a digest of all else that says which object it is.

Part of `_tiers`; pure. No secret can be read from a name, and credentials in options are not in it at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode

from .._urls import redact, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# What signs a URL, in lower case: the parameters that tell that it is signed, and those that differ each time.
# AWS (versions 4 and 2), CloudFront, Google, Azure's shared access signatures (and their user delegation keys).
_SIGNATURES: Final = (
    ({"x-amz-signature"}, re.compile(r"x-amz-.*")),
    ({"x-goog-signature"}, re.compile(r"x-goog-.*")),
    ({"sig", "sv"}, re.compile(r"s[vreptksi]|sig|sk(oid|tid|t|e|s|v)|spr|sip|srt|ss|sdd|saoid|suoid|scid")),
    ({"signature", "expires"}, re.compile(r"awsaccesskeyid|googleaccessid|signature|expires|key-pair-id|policy")),
    ({"signature", "key-pair-id"}, re.compile(r"signature|expires|key-pair-id|policy")),
)

_PLACES: Final = frozenset(
    {"account_host", "account_name", "endpoint", "endpoint_url", "host", "port", "profile", "revision"}
)
"""Options that say where something is; who asks is said by others."""

_CONNECTION: Final = ("accountname", "blobendpoint", "defaultendpointsprotocol", "endpointsuffix")


def name_of(url: str, storage_options: Mapping[str, object] | None = None) -> str:
    """Return what an object is found by again.

    Args:
        url: The object's URL, as it was given.
        storage_options: Of its store; of these count what says where it is.
    """
    parts = url.split("::") if scheme_of(url) == "::" else [url]
    asked = [_asked(part) for part in parts]
    places = sorted(_places(storage_options or {}))
    if not any(asked) and not places:
        return shown(url)
    said = json.dumps([asked, places]).encode("utf-8", "surrogatepass")
    return f"{shown(url)}#{hashlib.sha256(said).hexdigest()[:16]}"


def shown(url: str) -> str:
    """Return what a name begins with: the URL without what must not be shown; `#` in a path is written `%23`."""
    parts = url.split("::") if scheme_of(url) == "::" else [url]
    return "::".join([redact(part if _is_web(part) else _escaped(part)) for part in parts])


def path_in(place: str, rest: str) -> str:
    """Return a path below a place by how it goes on in names that begin with the place."""
    path = rest.partition("#")[0]
    return path if _is_web(place) else path.replace("%23", "#").replace("%25", "%")


def _is_web(url: str) -> bool:
    return scheme_of(url) in ("http", "https")


def _escaped(url: str) -> str:
    return url.replace("%", "%25").replace("#", "%23")


def _asked(url: str) -> str:
    """Return what a URL says behind its path, but who may ask and when."""
    rest = url.partition("://")[2]
    if not _is_web(url):
        found = re.search(r"[?#]", rest)
        return "" if found is None else rest[found.start() :]
    query = rest.partition("#")[0].partition("?")[2]
    said = parse_qsl(query, keep_blank_values=True)
    keys = {key.lower() for key, _ in said}
    signing = [changing for signs, changing in _SIGNATURES if signs <= keys]
    return urlencode([(key, value) for key, value in said if not any(one.fullmatch(key.lower()) for one in signing)])


def _places(options: Mapping[str, object], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield which options say where something is, also those of clients and of the protocols of a chain."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _places(value, "" if name == "client_kwargs" else f"{above}{name}.")
        elif value is None or value == "":
            continue
        elif name == "connection_string":
            yield above + name, _hosts_of(str(value))
        elif name in _PLACES:
            yield above + name, str(value).rpartition("@")[2].rstrip("/")


def _hosts_of(connection: str) -> str:
    """Return what a connection string of Azure says of the place."""
    fields = [field.partition("=") for field in connection.split(";")]
    return ";".join(sorted([f"{name}={value}" for name, _, value in fields if name.strip().lower() in _CONNECTION]))
