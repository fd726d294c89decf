"""What `doctor` says of stores: whether libraries and credentials are there, and never what they are."""

from __future__ import annotations

import os

import pytest

from streamload._doctor import Environment, _remote


def test_a_missing_libcurl_is_slow():
    assert _remote.libcurl("no libcurl").state == "slow"


def judged(environ: dict[str, str], scheme: str, *, library: bool = True):
    (found,) = _remote.stores(Environment.from_env(environ), scheme, installed=lambda module: library)
    return found


@pytest.mark.parametrize(
    ("scheme", "environ", "state", "says"),
    [
        ("s3", {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}, "ok", "AWS_ACCESS_KEY_ID and AWS_SECRET"),
        ("s3a", {"AWS_PROFILE": "x"}, "ok", "AWS_PROFILE"),
        ("s3", {"AWS_ACCESS_KEY_ID": "x"}, "wrong", "AWS_SECRET_ACCESS_KEY is not set, AWS_ACCESS_KEY_ID is"),
        ("s3", {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token"}, "wrong", "cannot be read"),
        ("s3", {}, "unknown", "no credentials"),
        ("gs", {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json"}, "wrong", "cannot be read"),
        ("az", {"AZURE_CLIENT_ID": "x"}, "unknown", "no credentials"),
        ("abfs", {"AZURE_STORAGE_CONNECTION_STRING": "x"}, "ok", "AZURE_STORAGE_CONNECTION_STRING"),
        ("hf", {"HF_TOKEN": "x"}, "ok", "HF_TOKEN"),
    ],
)
def test_credentials_are_found_by_variables(scheme, environ, state, says):
    found = judged(environ, scheme)
    assert (found.state, says in found.found) == (state, True), found


@pytest.mark.parametrize(
    ("scheme", "variable", "file"),
    [
        ("s3", "HOME", ".aws/credentials"),
        ("gs", "HOME", ".config/gcloud/application_default_credentials.json"),
        ("az", "AZURE_CONFIG_DIR", "azureProfile.json"),
        ("hf", "HF_HOME", "token"),
    ],
)
def test_credentials_are_found_in_files(tree, scheme, variable, file):
    root = tree({file: "secret"})
    assert judged({variable: str(root)}, scheme).state == "ok"
    (root / file).unlink()
    assert judged({variable: str(root)}, scheme).state == "unknown"


def test_a_missing_library_is_wrong_for_the_store_that_was_asked_for_only(tree):
    assert judged({}, "s3", library=False).state == "wrong"
    nothing = _remote.stores(Environment.from_env({}), installed=lambda module: False)
    assert [finding.state for finding in nothing] == ["ok"]
    (waiting,) = _remote.stores(Environment.from_env({"HF_TOKEN": "x"}), installed=lambda module: False)
    assert (waiting.check, waiting.state, waiting.fix) == ("hf://", "unknown", "pip install 'streamload[hf]'")


def test_a_scheme_without_credentials_has_no_line():
    assert _remote.stores(Environment.from_env({}), "https") == []


def test_an_environment_keeps_no_secret():
    secrets = {name: "very-secret" for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "AZURE_STORAGE_CONNECTION_STRING")}
    assert "very-secret" not in repr(Environment.from_env({**secrets, "HOME": os.sep}))
