"""`s3://`: presigned GETs by botocore, with the options that s3fs takes.

Floor 1, part of `_sources`. One signature serves an object for nine minutes; botocore renews credentials that have less
than ten left (`botocore.credentials.RefreshableCredentials`), so that none expires under way. Where a policy refuses
signatures in the query, they go into headers.
"""

from __future__ import annotations

import base64
import errno
import math
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import SourceError
from ._connections import Connections
from ._signers import Signed
from ._stores import HttpStore, missing_library, policy_of, refuse_unknown, tls_of
from ._urls import redact, scrub
from ._web import _mapping, _texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..options import StreamOptions
    from ._retry import HttpPolicy

_KNOWN = (
    "key, secret, token, profile, anon, endpoint_url, region, use_ssl, client_kwargs, config_kwargs, requester_pays"
)
# s3fs's, of how it reads by itself.
_MEANINGLESS = (
    "default_block_size",
    "default_cache_type",
    "default_fill_cache",
    "cache_regions",
    "max_concurrency",
    "skip_instance_cache",
    "use_listings_cache",
    "listings_expiry_time",
    "asynchronous",
    "loop",
    "fixed_upload_size",
)
_EXPIRY_SECONDS = 3600
_GOOD_SECONDS = 540.0
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "Forbidden")


class S3Access:
    """Hold credentials, region and endpoint of one bucket; thread-safe.

    Args:
        bucket: The bucket.
        given: What s3fs takes, checked.
        policy: How long listings are waited for, and how often they are asked for again.
    """

    def __init__(self, bucket: str, given: dict[str, object], policy: HttpPolicy) -> None:
        self.bucket = bucket
        self._given = given
        self._policy = policy
        self._lock = threading.Lock()  # guards those below
        self._session, self._client = _connect(given, None, policy)
        self._by_header = False
        self.requester_pays = bool(given.get("requester_pays"))

    def sign(self, key: str) -> Signed:
        """Sign a GET of an object.

        Raises:
            PermissionError: There are no credentials.
        """
        from botocore.exceptions import BotoCoreError

        with self._lock:
            client, by_header = self._client, self._by_header
        parameters: dict[str, object] = {"Bucket": self.bucket, "Key": key}
        if self.requester_pays:
            parameters["RequestPayer"] = "requester"
        try:
            url = str(client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=_EXPIRY_SECONDS))
            if "?" not in url:
                return Signed(url)
            if not by_header:
                return Signed(url, (), _GOOD_SECONDS)
            return self._sign_header(client, url.partition("?")[0])
        except BotoCoreError as error:
            _raise_typed(error, f"s3://{self.bucket}/{key}")

    def _sign_header(self, client: Any, url: str) -> Signed:  # noqa: ANN401 - botocore has no types
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("GET", url)
        if self.requester_pays:
            request.headers["x-amz-request-payer"] = "requester"
        credentials = self._session.get_credentials().get_frozen_credentials()
        S3SigV4Auth(credentials, "s3", client.meta.region_name).add_auth(request)
        return Signed(url, tuple((name, value) for name, value in request.headers.items()), _GOOD_SECONDS)

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Learn the bucket's region, or try signatures in headers; say whether the next signature differs."""
        region = next((text for name, text in headers.items() if name.lower() == "x-amz-bucket-region"), None)
        with self._lock:
            if region and region != self._client.meta.region_name and not self._given.get("anon"):
                self._session, self._client = _connect(self._given, region, self._policy)
                return True
            if status == 403 and not self._by_header and not self._given.get("anon"):
                self._by_header = True
                return True
        return False

    def names(self, prefix: str, *, deep: bool) -> set[str] | None:
        """List the keys below a prefix; None where that is denied, and reading may not be."""
        from botocore.exceptions import BotoCoreError, ClientError

        found: set[str] = set()
        extra = {} if deep else {"Delimiter": "/"}
        if self.requester_pays:
            extra["RequestPayer"] = "requester"
        try:
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, **extra):
                found.update(entry["Key"][len(prefix) :] for entry in page.get("Contents", ()))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "AccessDenied":
                return None
            _raise_typed(error, f"s3://{self.bucket}/{prefix}")
        except BotoCoreError as error:
            _raise_typed(error, f"s3://{self.bucket}/{prefix}")
        return {name for name in found if name and not name.endswith("/")}

    def sha256_of(self, key: str, etag: str) -> str:
        """Return the SHA-256 that the store keeps of all of an object's version; "" where it keeps none."""
        from botocore.exceptions import BotoCoreError, ClientError

        extra = {"RequestPayer": "requester"} if self.requester_pays else {}
        try:
            told = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED", **extra)
        except (ClientError, BotoCoreError):
            return ""  # reading says what is wrong, if something is
        sha256 = str(told.get("ChecksumSHA256", ""))
        whole = told.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and "-" not in sha256
        return base64.b64decode(sha256).hex() if whole and told.get("ETag") == etag else ""

    @property
    def verify(self) -> object:
        """What botocore checks certificates with: what was given, else what its configuration names."""
        given = _mapping(self._given.get("client_kwargs"), "client_kwargs").get("verify")
        return self._session.get_config_variable("ca_bundle") if given is None else given


class S3Signer:
    """Sign one object of a bucket."""

    def __init__(self, access: S3Access, key: str) -> None:
        self._access = access
        self._key = key

    def sign(self) -> Signed:
        """Return a fresh signature."""
        return self._access.sign(self._key)

    def refused(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take note of a refusal."""
        return self._access.refused(status, headers)


class S3Store(HttpStore):
    """Open objects below a prefix of a bucket."""

    def __init__(self, url: str, access: S3Access, connections: Connections) -> None:
        super().__init__(url, connections)
        self._access = access
        path = url.partition("://")[2].partition("/")[2].strip("/")
        self._prefix = f"{path}/" if path else ""

    def names(self, *, deep: bool = False) -> set[str] | None:
        """List the keys below the prefix; None where that is denied."""
        return self._access.names(self._prefix, deep=deep)

    def sha256_of(self, name: str, etag: str) -> str:
        """Return the SHA-256 that the store keeps of an object's version; "" where it keeps none."""
        return self._access.sha256_of(self._prefix + name, etag)

    def signer(self, name: str) -> S3Signer:
        """Return how an object is asked for."""
        return S3Signer(self._access, self._prefix + name)


def open_store(url: str, storage_options: dict[str, object], options: StreamOptions) -> S3Store:
    """Return the place that a URL stands for.

    Raises:
        ValueError: It names no bucket, or the profile or the configuration is wrong.
        TypeError: A storage option is not known.
        ImportError: botocore is missing.
        PermissionError: There are no credentials.
    """
    bucket = url.partition("://")[2].partition("/")[0]
    if not bucket:
        raise ValueError(f"{redact(url)!r}: expected s3://bucket/key")
    given = {name: value for name, value in storage_options.items() if name not in _MEANINGLESS}
    given.setdefault("key", given.pop("username", None))
    given.setdefault("secret", given.pop("password", None))
    refuse_unknown("s3", {name: 0 for name in given if name not in _KNOWN.split(", ")}, _KNOWN)
    try:
        import botocore.exceptions
        import botocore.session
    except ImportError as error:
        missing_library(error, "s3", "s3")
    try:
        access = S3Access(bucket, given, policy_of(options))
    except botocore.exceptions.BotoCoreError as error:
        _raise_typed(error, redact(url))
    except ValueError as error:  # botocore's, of an endpoint in its configuration
        hint = "; write http:// or https:// before it" if "endpoint" in str(error) else ""
        raise ValueError(f"{redact(url)}: {scrub(str(error))}{hint}") from error
    verify_tls, ca_file = tls_of(access.verify)
    policy = policy_of(options, verify_tls=verify_tls)
    config = _mapping(given.get("config_kwargs"), "config_kwargs")
    proxies = _texts(config.get("proxies"), "proxies")
    return S3Store(url, access, Connections(policy, ca_file=ca_file, proxies=proxies))


def _connect(given: Mapping[str, object], region: str | None, policy: HttpPolicy) -> tuple[Any, Any]:
    """Return a session and a client of botocore's, as s3fs makes them."""
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    session = botocore.session.Session(profile=given.get("profile") or None)
    client = _mapping(given.get("client_kwargs"), "client_kwargs")
    config = _mapping(given.get("config_kwargs"), "config_kwargs")
    config = {**_waits(policy), **config}
    config.setdefault("signature_version", UNSIGNED if given.get("anon") else "s3v4")
    keys = {
        "aws_access_key_id": given.get("key"),
        "aws_secret_access_key": given.get("secret"),
        "aws_session_token": given.get("token"),
        "endpoint_url": given.get("endpoint_url"),
        "use_ssl": given.get("use_ssl"),
        "region_name": region or given.get("region"),
    }
    client.update({name: value for name, value in keys.items() if value is not None})
    for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
        if not str(client.get(name) or "").isprintable():  # botocore would show it in an error of the header's
            raise ValueError(f"storage_options: {name} holds a line end or another character that no header may have")
    if client.get("aws_access_key_id"):
        session.set_credentials(
            client["aws_access_key_id"], client.get("aws_secret_access_key"), client.get("aws_session_token")
        )
    # Botocore signs for no region at all where none is named, which stores refuse; this is the one that knows all.
    client.setdefault("region_name", session.get_config_variable("region") or "us-east-1")
    return session, session.create_client("s3", config=Config(**config), **client)


def _waits(policy: HttpPolicy) -> dict[str, object]:
    """Return for how long botocore waits: for listings, as all else is asked for without it.

    It pauses up to 1, 2, 4, … seconds between its tries (its `legacy` mode), and tries five times where nobody chooses.
    """
    return {
        "connect_timeout": min(policy.connect_seconds, policy.retry_seconds),
        "read_timeout": min(policy.stall_seconds, policy.retry_seconds),
        "retries": {"max_attempts": min(4, int(math.log2(policy.retry_seconds + 1)))},
    }


def _raise_typed(error: Exception, url: str) -> NoReturn:
    """Raise what an exception of botocore's stands for."""
    name = type(error).__name__
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    if code in ("NoSuchBucket", "NoSuchKey") or status == 404:
        raise FileNotFoundError(errno.ENOENT, f"no such bucket or object ({code or status})", url) from error
    if name in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "CredentialRetrievalError"):
        raise PermissionError(
            errno.EACCES,
            f"no usable credentials: {scrub(str(error))}; give storage_options key and secret or profile, or anon=True "
            "for what is public",
            url,
        ) from error
    if status in (401, 403) or code in _DENIED:
        raise PermissionError(
            errno.EACCES,
            f"the store denies access (status {status} {code}): the credentials are wrong or too weak",
            url,
        ) from error
    if name in (
        "ProfileNotFound",
        "InvalidConfigError",
        "ConfigParseError",
        "InvalidRegionError",
        "ParamValidationError",
    ):
        raise ValueError(f"{url}: {scrub(str(error))}") from error
    raise SourceError(f"{url}: the store could not be asked: {scrub(str(error))}", url=url) from error
