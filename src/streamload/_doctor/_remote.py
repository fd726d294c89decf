"""Stores: libcurl, the library of each scheme, and whether credentials are there.

Part of `_doctor`. Says where credentials were found, never what they are, and asks nobody: what a machine's role gives
is not seen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ._finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._environment import Environment

__all__ = ["libcurl", "stores"]

_WHY: Final = "loads from it need its library, and credentials unless what they read is public"


@dataclass(frozen=True, slots=True)
class _Store:
    """Where one kind of store's library and credentials are looked for.

    Attributes:
        schemes: Of its URLs.
        module: What must be importable.
        extra: The extra of streamload that brings it.
        variables: Sets of variables, each of which is enough.
        files: Files that hold credentials: `~` is the home, `VARIABLE:name` a file of the directory that a variable
            names, `VARIABLE:` the file that it names.
        how: How credentials are given.
    """

    schemes: tuple[str, ...]
    module: str
    extra: str
    variables: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]
    how: str


_STORES: Final = (
    _Store(
        ("s3", "s3a"),
        "botocore",
        "s3",
        (
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("AWS_PROFILE",),
            ("AWS_DEFAULT_PROFILE",),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI",),
        ),
        ("AWS_WEB_IDENTITY_TOKEN_FILE:", "AWS_SHARED_CREDENTIALS_FILE:", "~/.aws/credentials"),
        "aws configure, or --storage-option profile=NAME; anon=true for what is public",
    ),
    _Store(
        ("gs", "gcs"),
        "gcsfs",
        "gcs",
        (),
        (
            "GOOGLE_APPLICATION_CREDENTIALS:",
            "CLOUDSDK_CONFIG:application_default_credentials.json",
            "~/.config/gcloud/application_default_credentials.json",
        ),
        "gcloud auth application-default login; token=anon for what is public",
    ),
    _Store(
        ("az", "abfs", "abfss"),
        "adlfs",
        "azure",
        (
            ("AZURE_STORAGE_CONNECTION_STRING",),
            ("AZURE_STORAGE_ACCOUNT_KEY",),
            ("AZURE_STORAGE_SAS_TOKEN",),
            ("AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET"),
            ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"),
        ),
        ("AZURE_FEDERATED_TOKEN_FILE:", "AZURE_CONFIG_DIR:azureProfile.json", "~/.azure/azureProfile.json"),
        "az login, or AZURE_STORAGE_CONNECTION_STRING; anon=true for what is public",
    ),
    _Store(
        ("hf",),
        "huggingface_hub",
        "hf",
        (("HF_TOKEN",), ("HUGGING_FACE_HUB_TOKEN",)),
        ("HF_TOKEN_PATH:", "HF_HOME:token", "~/.cache/huggingface/token"),
        "hf auth login, or HF_TOKEN; none is needed for what is public",
    ),
)
# What these name must be there.
_MUST_EXIST: Final = ("AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_FEDERATED_TOKEN_FILE")


def libcurl(library: str = "libcurl.so.4") -> Finding:
    """Load libcurl as the engine does.

    Args:
        library: What it is loaded as.
    """
    why = "requests to stores run in the native core through it; without it they run in Python, and slower"
    fix = "apt-get install libcurl4, or dnf install libcurl"
    try:
        from .. import _native
    except ImportError:
        return Finding("libcurl", "unknown", "the native core, which loads it, is not there", why)
    try:
        client = _native.HttpClient(library=library)
    except _native.NativeError as error:
        return Finding("libcurl", "slow", str(error), why, fix)
    version = client.version
    client.close()
    return Finding("libcurl", "ok", version.partition(" ")[0], why)


def stores(
    environment: Environment, scheme: str = "", *, installed: Callable[[str], bool] | None = None
) -> list[Finding]:
    """Look for the library and the credentials of each kind of store: of one, or of all that anything is there of.

    Args:
        environment: Which variables are set.
        scheme: Of the URL that is to be loaded; "" if none is named. Then a missing library is wrong.
        installed: Whether a module can be imported; None asks the interpreter.
    """
    there = installed or (lambda module: find_spec(module) is not None)
    found: list[Finding] = []
    for store in _STORES:
        if not scheme:
            places, faults = _credentials(store, environment)
            if places or faults or there(store.module):
                found.append(_judge(store, places, faults, library=there(store.module), needed=False))
        elif scheme in store.schemes:
            return [_judge(store, *_credentials(store, environment), library=there(store.module), needed=True)]
    if found or scheme:
        return found
    return [Finding("stores", "ok", "neither a library nor credentials of one; https:// needs none", _WHY)]


def _credentials(store: _Store, environment: Environment) -> tuple[list[str], list[str]]:
    """Return where credentials of a store were found, and what is wrong with others."""
    places, faults = [], []
    for together in store.variables:
        missing = [name for name in together if name not in environment.present]
        if not missing:
            places.append(" and ".join(together))
        elif len(missing) < len(together) and together[0].startswith("AWS_"):  # of Azure's others an identity is enough
            faults.append(f"{missing[0]} is not set, {' and '.join(set(together) - set(missing))} is")
    for file in store.files:
        variable, _, name = file.partition(":")
        path = _path_of(file, environment)
        if path is not None and os.access(path, os.R_OK):
            places.append(variable)
        elif path is not None and variable in _MUST_EXIST and not name:
            faults.append(f"{variable} names a file that cannot be read")
    return places, faults


def _path_of(file: str, environment: Environment) -> Path | None:
    """Return where a file with credentials is looked for; None where a variable that is not set would say so."""
    if file.startswith("~/"):
        home = environment.paths.get("HOME")
        return Path(home, file.removeprefix("~/")) if home else None
    variable, _, name = file.partition(":")
    path = environment.paths.get(variable)
    return None if path is None else Path(path, name)


def _judge(store: _Store, places: list[str], faults: list[str], *, library: bool, needed: bool) -> Finding:
    name = f"{store.schemes[0]}://"
    if faults:
        return Finding(name, "wrong", faults[0], _WHY, f"set it right or unset it; else: {store.how}")
    credentials = f"credentials: {places[0]}" if places else "no credentials in the usual places"
    if not library:
        found = f"{store.module} is not installed; {credentials}"
        return Finding(name, "wrong" if needed else "unknown", found, _WHY, f"pip install 'streamload[{store.extra}]'")
    found = f"{store.module}; {credentials}"
    return Finding(name, "ok", found, _WHY) if places else Finding(name, "unknown", found, _WHY, store.how)
