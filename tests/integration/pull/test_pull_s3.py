"""Pulls from a real S3 server that checks every signature (OpenStack Swift), by the command as a user types it."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

from streamload._sources import open_store
from streamload.cli import main

from ...servers.fault_proxy import Fault
from .conftest import SHAPE, contents

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(swift, tmp_path_factory):
    """A model below a prefix with odd characters; its URL and files."""
    from streamload.testing import make_checkpoint

    folder = make_checkpoint(tmp_path_factory.mktemp("model"), SHAPE, shards=3)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    swift.put("pulled", "org/m odel+1/unet/config.json", b"{}")
    return swift.put_folder("pulled", folder, "org/m odel+1"), {**files, "unet/config.json": b"{}"}


def options(store, **changed: object):
    """The options of the command for a store."""
    words = []
    for name, value in store.options(**changed).items():
        words += ["--storage-option", f"{name}={json.dumps(value) if isinstance(value, dict) else value}"]
    return words


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_prefix_brings_all_that_is_below_it(swift, model, tmp_path):
    url, files = model
    result = run("pull", url, "--to", tmp_path, "--json", *options(swift))
    assert result.exit_code == 0, result.stderr
    assert contents(tmp_path / "m odel+1") == files
    assert run("verify", tmp_path).exit_code == 0
    again = json.loads(run("pull", url, "--to", tmp_path, "--json", *options(swift)).stdout)
    assert again["fetched"] == 0


def test_wrong_keys_are_4_and_a_missing_object_is_3(swift, model, tmp_path):
    url, _ = model
    wrong = run("pull", url, "--to", tmp_path, *options(swift, secret="not this one"))
    assert wrong.exit_code == 4, wrong.stderr
    assert "not this one" not in wrong.stderr
    assert run("pull", f"{url}/missing.json", "--to", tmp_path, *options(swift)).exit_code == 3
    assert run("pull", "s3://pulled/nothing/here", "--to", tmp_path, *options(swift)).exit_code == 3


@pytest.mark.parametrize("kind", ["reset", "close", "status", "half", "whole", "shifted"])
def test_faults_on_the_way_end_in_right_bytes(swift_faults, model, tmp_path, kind):
    proxy, store = swift_faults
    url, files = model
    proxy.set(*[Fault(kind, times=2, after=after) for after in (0, 3)])
    result = run("pull", url, "--to", tmp_path, *options(store))
    assert result.exit_code == 0, result.stderr
    assert contents(tmp_path / "m odel+1") == files


def test_a_sha256_that_the_store_keeps_is_held_against_the_bytes(moto, tmp_path):
    data = b"{}" * 1000
    moto.put("pulled", "kept/config.json", b"")
    told = moto.client.put_object(Bucket="pulled", Key="kept/config.json", Body=data, ChecksumAlgorithm="SHA256")
    store = open_store("s3://pulled/kept", storage_options=moto.options())
    assert store.sha256_of("config.json", told["ETag"]) == hashlib.sha256(data).hexdigest()
    assert store.sha256_of("config.json", "of another version") == store.sha256_of("missing", "") == ""
    assert run("pull", "s3://pulled/kept/config.json", "--to", tmp_path, *options(moto)).exit_code == 0
    assert contents(tmp_path / "kept") == {"config.json": data}
