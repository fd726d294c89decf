"""`http://` and `https://`: URLs as they are, presigned ones included; nothing can be listed.

Floor 1, part of `_sources`. The environment's proxies are used only where `trust_env` says so, as with aiohttp, which
fsspec reads the web with.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from ._connections import Connections, basic_authorization, check_place
from ._signers import PlainSigner
from ._stores import HttpStore, policy_of, refuse_unknown, tls_of
from ._urls import join, why_not_sent

if TYPE_CHECKING:
    from ..options import StreamOptions

_KNOWN = "headers, client_kwargs (headers, trust_env), verify, proxies"
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")  # one that stands for itself
_SAFE = "/%:@!$&'()*+,;=~-._"


class WebStore(HttpStore):
    """Open objects of a web server."""

    def __init__(self, url: str, headers: dict[str, str], connections: Connections) -> None:
        super().__init__(url, connections)
        self._headers = headers

    def signer(self, name: str) -> PlainSigner:
        """Return the URL of a name, with the headers that were given."""
        parts = urlsplit(join(self._place, quote(_PERCENT.sub("%25", name), safe=_SAFE)))
        user, _, place = parts.netloc.rpartition("@")
        headers = dict(self._headers)
        if user and not any(key.lower() == "authorization" for key in headers):
            headers["Authorization"] = basic_authorization(*user.partition(":")[::2])
        url = urlunsplit((parts.scheme, place, quote(parts.path, safe=_SAFE), quote(parts.query, safe=_SAFE + "?"), ""))
        return PlainSigner(url, headers)


def open_store(url: str, storage_options: dict[str, object], options: StreamOptions) -> WebStore:
    """Return the place that a URL stands for.

    Raises:
        ValueError: It has no host.
        TypeError: A storage option is not known.
    """
    check_place(url)
    given = dict(storage_options)
    client = _mapping(given.pop("client_kwargs", None), "client_kwargs")
    headers = {**_texts(client.pop("headers", None), "headers"), **_texts(given.pop("headers", None), "headers")}
    verify_tls, ca_file = tls_of(given.pop("verify", None))
    proxies = _texts(given.pop("proxies", None), "proxies")
    if client.pop("trust_env", False):
        proxies = environment_proxies(url) | proxies
    refuse_unknown("https", {**given, **client}, _KNOWN)
    policy = policy_of(options, verify_tls=verify_tls)
    return WebStore(url, headers, Connections(policy, ca_file=ca_file, proxies=proxies))


def environment_proxies(url: str) -> dict[str, str]:
    """Return the proxies that the environment names for a URL (`https_proxy`, `no_proxy`), as urllib reads them."""
    from urllib.request import getproxies, proxy_bypass  # 20 ms, and only where it was asked for

    if proxy_bypass(urlsplit(url).hostname or ""):
        return {}
    return {scheme: proxy for scheme, proxy in getproxies().items() if scheme in ("http", "https")}


def _mapping(value: object, name: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    return dict(value)


def _texts(value: object, name: str) -> dict[str, str]:
    found = _mapping(value, name)
    for key, text in found.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"{name} must send text to text")
        if (wrong := why_not_sent(key, text)) is not None:
            raise TypeError(f"{name} must send text to text without line ends: {wrong}")
    return {str(key): str(text) for key, text in found.items()}
