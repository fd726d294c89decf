"""`hf://`: files of a repository on the Hugging Face Hub, by huggingface_hub's rules.

Floor 1, part of `_sources`. A revision is resolved to a commit once; each file is then one request that follows the
Hub's redirect, and the token goes to the Hub only (`Address.follow`). Without network (`HF_HUB_OFFLINE`) the files are
those that huggingface_hub has kept.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

from ..errors import SourceError
from ._connections import Connections
from ._file import FileSource
from ._http import HEAD_BYTES
from ._signers import Signed
from ._stores import HttpStore, missing_library, policy_of, refuse_unknown, tls_of
from ._urls import join, redact, scrub, why_not_sent
from ._web import environment_proxies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import StreamOptions
    from . import Source

_KNOWN = "token, endpoint, revision, verify, trust_env"
_KINDS = {"datasets": "dataset", "spaces": "space", "models": "model"}
_LONG_REVISION = re.compile(r"(refs/(?:convert|pr)/[^/]+)(?:/|$)")
_GOOD_SECONDS = 1800.0  # what a redirect leads to is signed for an hour


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Hold what an `hf://` URL names.

    Attributes:
        kind: "model", "dataset" or "space".
        repo: Owner and name.
        revision: Branch, tag or commit; None for the repository's own choice.
        folder: Path in the repository; "" for its top.
    """

    kind: str
    repo: str
    revision: str | None
    folder: str


def parse_hub_url(url: str) -> HubPlace:
    """Take `hf://[kind/]owner/name[@revision][/path]` apart.

    Raises:
        ValueError: It names no repository.
    """
    rest = url.partition("://")[2].rstrip("/")
    kind = "model"
    first, slash, after = rest.partition("/")
    if first in _KINDS and slash:
        kind, rest = _KINDS[first], after
    before, mark, after = rest.partition("@")
    if mark and before.count("/") <= 1:
        long = _LONG_REVISION.match(after)
        revision, _, folder = (long[1], "", after[long.end() :]) if long else after.partition("/")
        repo = before
        revision = revision.replace("%2F", "/").replace("%2f", "/")
    else:
        parts = rest.split("/")
        repo, folder, revision = "/".join(parts[:2]), "/".join(parts[2:]), ""
    if not repo or not all(repo.split("/")):
        raise ValueError(f"{redact(url)!r}: expected hf://owner/name[@revision][/path]")
    return HubPlace(kind, repo, revision or None, folder.strip("/"))


class HubSigner:
    """Ask the Hub for a file of a commit."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = () if token is None else (("Authorization", f"Bearer {token}"),)
        self._signed = Signed(url, headers, _GOOD_SECONDS)

    def sign(self) -> Signed:
        """Return the Hub's own URL, whose redirect is signed afresh."""
        return self._signed

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Say no: a token that is refused stays so."""
        return False


class HubStore(HttpStore):
    """Open files of a repository at one commit."""

    def __init__(self, url: str, place: HubPlace, given: Mapping[str, object], connections: Connections) -> None:
        from huggingface_hub import HfApi, constants, get_token

        super().__init__(url, connections)
        self._hub = place
        endpoint = given.get("endpoint")
        token = given.get("token")
        self._endpoint = str(endpoint or constants.ENDPOINT).rstrip("/")
        self._token = None if token is False else str(token) if isinstance(token, str) else get_token()
        self._token = self._token.strip() if self._token else None
        if self._token and why_not_sent("Authorization", self._token) is not None:
            raise ValueError(f"{self.url}: the token has characters that none may have; copy it again")
        self._api = HfApi(endpoint=self._endpoint, token=self._token or False)
        self._lock = threading.Lock()  # guards all below
        self._commit: str | None = None
        self._files: set[str] = set()
        self._sums: dict[str, str] = {}

    def names(self, *, deep: bool = False) -> set[str]:
        """Return the names of the files here."""
        self._resolve()
        prefix = f"{self._hub.folder}/" if self._hub.folder else ""
        found = {name.removeprefix(prefix) for name in self._files if name.startswith(prefix)}
        return found if deep else {name for name in found if "/" not in name}

    def sha256_of(self, name: str, etag: str) -> str:
        """Return the SHA-256 of a large file, as the Hub tells it; "" of a small one. A commit needs no ETag."""
        self._resolve()
        return self._sums.get(join_path(self._hub.folder, name), "")

    def signer(self, name: str) -> HubSigner:
        """Return how a file is asked for."""
        commit = self._resolve()
        kind = "" if self._hub.kind == "model" else f"{self._hub.kind}s/"
        path = quote(join_path(self._hub.folder, name))
        return HubSigner(f"{self._endpoint}/{kind}{self._hub.repo}/resolve/{commit}/{path}", self._token)

    def _resolve(self) -> str:
        """Return the commit, asked for once."""
        from huggingface_hub.errors import HfHubHTTPError

        with self._lock:
            if self._commit is None:
                try:
                    info = self._api.repo_info(
                        self._hub.repo, revision=self._hub.revision, repo_type=self._hub.kind, files_metadata=True
                    )
                except (HfHubHTTPError, OSError, ValueError) as error:
                    _raise_typed(error, self.url)
                self._commit = str(info.sha)
                for each in getattr(info, "siblings", None) or ():
                    self._files.add(str(each.rfilename))
                    if each.lfs is not None:  # a large file is kept under its sum
                        self._sums[str(each.rfilename)] = str(each.lfs.sha256)
            return self._commit


class KeptHubStore:
    """Open what huggingface_hub has kept of a repository; asks nobody.

    Args:
        url: What was opened.
        folder: Directory of the snapshot.
    """

    def __init__(self, url: str, folder: str) -> None:
        self._place = url
        self._folder = folder

    @property
    def url(self) -> str:
        """Name of the place, as error messages give it."""
        return redact(self._place)

    def names(self, *, deep: bool = False) -> set[str]:
        """Return the names of the files here."""
        found = set()
        for directory, _, files in os.walk(self._folder):
            inside = os.path.relpath(directory, self._folder)
            found.update(files if inside == "." else [f"{inside}/{name}" for name in files])
        return found if deep else {name for name in found if "/" not in name}

    def open(self, name: str, *, head_bytes: int = HEAD_BYTES) -> Source:
        """Open a file by its name."""
        return FileSource(f"{self._folder}/{name}", url=redact(join(self._place, name)))


def open_store(url: str, storage_options: dict[str, object], options: StreamOptions) -> HubStore | KeptHubStore:
    """Return the place that a URL stands for.

    Raises:
        ValueError: It names no repository.
        TypeError: A storage option is not known.
        ImportError: huggingface_hub is missing.
        FileNotFoundError: The Hub may not be asked, and huggingface_hub has kept nothing of the repository.
    """
    place = parse_hub_url(url)
    given = dict(storage_options)
    refuse_unknown("hf", {name: 0 for name in given if name not in _KNOWN.split(", ")}, _KNOWN)
    try:
        from huggingface_hub import constants
    except ImportError as error:
        missing_library(error, "hf", "hf")
    revision = given.get("revision")
    if isinstance(revision, str) and place.revision is None:
        place = HubPlace(place.kind, place.repo, revision, place.folder)
    if constants.HF_HUB_OFFLINE:
        return KeptHubStore(url, _kept_folder(place, url))
    verify_tls, ca_file = tls_of(given.get("verify"))
    proxies = environment_proxies(str(given.get("endpoint") or constants.ENDPOINT)) if given.get("trust_env") else {}
    connections = Connections(policy_of(options, verify_tls=verify_tls), ca_file=ca_file, proxies=proxies)
    return HubStore(url, place, given, connections)


def join_path(folder: str, name: str) -> str:
    """Return the path of a name in a folder; "" is the top."""
    return f"{folder}/{name}" if folder else name


def _kept_folder(place: HubPlace, url: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        kept = snapshot_download(place.repo, repo_type=place.kind, revision=place.revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        text = "huggingface_hub has kept nothing of it, and HF_HUB_OFFLINE forbids to ask the Hub"
        raise FileNotFoundError(errno.ENOENT, text, redact(url)) from error
    return join_path(str(kept), place.folder).rstrip("/")


def _raise_typed(error: Exception, url: str) -> NoReturn:
    """Raise what an exception of huggingface_hub's stands for."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    text = scrub(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    if "GatedRepoError" in names or status == 403:
        raise PermissionError(
            errno.EACCES, f"the Hub denies access ({text}); ask for it there, then log in", url
        ) from None
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError"} or status in (401, 404):
        raise FileNotFoundError(
            errno.ENOENT,
            f"no such repository or revision, or it is private and the token does not open it ({text})",
            url,
        ) from None
    if "HFValidationError" in names:
        raise ValueError(f"{url}: {text}") from None
    raise SourceError(f"{url}: the Hub could not be asked: {text}", url=url) from None
