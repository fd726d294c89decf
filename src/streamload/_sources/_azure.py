"""`az://` and `abfs://`: blobs of Azure Storage, with adlfs's options and credentials.

Floor 1, part of `_sources`. adlfs finds the credentials and lists. A blob is asked for with a shared access signature
where there is an account key or a signature, with a token of Microsoft Entra else, with neither where it is public.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ._connections import Connections
from ._fsspec import FsspecStore, typed
from ._signers import Signed
from ._stores import HttpStore, missing_library, policy_of
from ._urls import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import StreamOptions

_VERSION = (("x-ms-version", "2021-08-06"),)  # the first of these that takes long ranges and tokens
_EXPIRY_SECONDS = 3600
_GOOD_SECONDS = 1800.0
_ADVICE = (
    "give storage_options account_name and account_key, sas_token or credential, or connection_string, or anon=True "
    "for what is public"
)
_SCOPE = "https://storage.azure.com/.default"


class AzureSigner:
    """Ask for a blob with what adlfs was given."""

    def __init__(self, fs: Any, path: str) -> None:  # noqa: ANN401 - adlfs has no types
        self._fs = fs
        self._path = path

    def sign(self) -> Signed:
        """Return the blob's URL with a signature, or a token beside it.

        Raises:
            PermissionError: There are no usable credentials.
            SourceError: Who gives tokens could not be asked.
        """
        try:
            return self._sign()
        except Exception as error:
            raise _advised(typed(error, f"az://{self._path}")) from None

    def _sign(self) -> Signed:
        fs = self._fs
        if fs.account_key or "accountkey=" in str(fs.connection_string or "").lower():
            return Signed(str(fs.sign(self._path, expiration=_EXPIRY_SECONDS)), _VERSION, _GOOD_SECONDS)
        base, _, query = str(fs.service_client.primary_endpoint).partition("?")
        url = f"{base.rstrip('/')}/{quote(self._path)}"
        signature = str(fs.sas_token or query).lstrip("?")
        if signature:
            return Signed(f"{url}?{signature}", _VERSION)
        credential = getattr(fs, "sync_credential", None) or fs.credential
        if fs.anon or credential is None or not hasattr(credential, "get_token"):
            return Signed(url, _VERSION)
        token = credential.get_token(_SCOPE)
        if inspect.isawaitable(token):
            from fsspec.asyn import sync

            token = sync(fs.loop, _awaited, token)
        return Signed(url, (*_VERSION, ("Authorization", f"Bearer {token.token}")), 240.0)

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Say no: what is refused stays so until it is old."""
        return False


class AzureStore(HttpStore):
    """Open blobs below a prefix of a container."""

    def __init__(self, url: str, fs: Any, path: str, options: StreamOptions) -> None:  # noqa: ANN401 - as above
        super().__init__(url, Connections(policy_of(options)))
        self._fs = fs
        self._path = path.strip("/")
        self._listing = FsspecStore(fs, path, url=url)

    def names(self, *, deep: bool = False) -> set[str] | None:
        """Return the names of the blobs here."""
        try:
            return self._listing.names(deep=deep)
        except PermissionError as error:
            raise _advised(error) from None

    def signer(self, name: str) -> AzureSigner:
        """Return how a blob is asked for."""
        return AzureSigner(self._fs, f"{self._path}/{name}")


def open_store(url: str, storage_options: dict[str, object], options: StreamOptions) -> AzureStore:
    """Return the place that a URL stands for.

    Raises:
        ValueError: It names no container, or no account is given.
        ImportError: adlfs is missing.
    """
    if not url.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{redact(url)!r}: expected az://container/name")
    try:
        from adlfs import AzureBlobFileSystem
    except ImportError as error:
        missing_library(error, "az", "azure")
    given = {**AzureBlobFileSystem._get_kwargs_from_urls(url), **storage_options}
    try:
        fs = AzureBlobFileSystem(**given)
    except Exception as error:
        raise _advised(typed(error, redact(url))) from None
    return AzureStore(url, fs, str(fs._strip_protocol(url)), options)


def _advised(error: Exception) -> Exception:
    """Return an error that says which options give the account and its credentials, if that is what is missing."""
    if isinstance(error, PermissionError):
        return PermissionError(error.errno, f"{error.strerror}; {_ADVICE}", error.filename)
    return ValueError(f"{error}; {_ADVICE}") if isinstance(error, ValueError) else error


async def _awaited(token: Any) -> Any:  # noqa: ANN401 - azure's
    return await token
