"""`inspect`, `plan`, `manifest` and `verify` of a checkpoint behind a URL."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

from .pull.server import RangeServer

SHAPE = LlamaShape(layers=3, hidden=64, heads=4, kv_heads=2, intermediate=128, vocab=200, dtype="BF16")
SECRET = "TOPSECRETVALUE"


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two shards, on the drive."""
    folder = tmp_path / "llama"
    make_checkpoint(folder, SHAPE, shards=2)
    return folder


@pytest.fixture
def server(folder):
    """A server that has the same."""
    with RangeServer({f"llama/{path.name}": path.read_bytes() for path in folder.iterdir()}) as server:
        yield server


@pytest.fixture
def index(server) -> str:
    return f"{server.url}/llama/model.safetensors.index.json"


def test_inspect_and_plan_say_of_a_url_what_they_say_of_a_path(folder, index):
    for command, of in (("inspect", "tensors"), ("plan", "layers")):
        there, here = (json.loads(run(command, "--json", url).stdout) for url in (index, folder))
        assert there[of] == here[of]


def test_storage_options_reach_the_store_and_are_not_shown(server, index):
    options = ("--storage-option", f'headers={{"X-Key": "{SECRET}"}}')
    assert run("inspect", index, *options).exit_code == 0
    server.objects.clear()
    refused = run("inspect", index + f"?sig={SECRET}", *options)
    assert refused.exit_code == 2
    assert SECRET not in refused.output + refused.stderr
    unknown = run("plan", index, "--storage-option", f"nonsense={SECRET}")
    assert (unknown.exit_code, "nonsense" in unknown.stderr, SECRET in unknown.stderr) == (2, True, False)


def test_a_checkpoint_behind_a_url_is_held_to_the_manifest_beside_it(folder, server, index):
    assert run("manifest", folder).exit_code == 0
    name = "streamload-checksums.json"
    without = run("verify", index)
    assert (without.exit_code, name in without.stderr) == (2, True)
    server.objects[f"llama/{name}"] = (folder / name).read_bytes()
    assert (right := run("verify", index)).exit_code == 0, right.stderr
    shard = "llama/model-00002-of-00002.safetensors"
    server.objects[shard] = server.objects[shard][:-1] + bytes([server.objects[shard][-1] ^ 1])
    verdict = json.loads(run("verify", "--json", index).stdout)
    assert verdict["right"] is False
    assert [fault["shard"] for fault in verdict["faults"]] == ["model-00002-of-00002.safetensors"]
    one = run("verify", f"{server.url}/llama/model-00001-of-00002.safetensors")
    assert one.exit_code == 0, one.output


def test_a_manifest_of_a_url_goes_where_it_is_told(index, tmp_path, folder):
    refused = run("manifest", index)
    assert (refused.exit_code, "--manifest" in refused.stderr) == (2, True)
    assert run("manifest", index, "--manifest", tmp_path / "sums.json").exit_code == 0
    assert run("verify", folder, "--manifest", tmp_path / "sums.json").exit_code == 0


def test_plan_for_a_device_reads_the_config_behind_the_url(folder, server, index):
    def forecast(*arguments: object) -> dict[str, object]:
        return json.loads(run("plan", "--device", "h100", "--json", *arguments).stdout)

    config = json.loads((folder / "config.json").read_text()) | {"num_experts": 8, "num_experts_per_tok": 2}
    (folder / "config.json").write_text(json.dumps(config))
    server.objects["llama/config.json"] = json.dumps(config).encode()
    here, there = (forecast(place, "--storage", "1GB/s") for place in (folder, index))
    assert {**here, "url": ""} == {**there, "url": ""}
    server.objects["llama/config.json"] = b"{"
    assert any("config.json is not JSON" in note for note in forecast(index)["notes"])
    for missing in (server.denied.add, server.objects.pop):
        missing("llama/config.json")
        assert not any("config.json is" in note for note in forecast(index)["notes"])


def test_plan_says_of_a_url_that_the_page_cache_is_only_assumed(folder, index):
    note = "storage: page-cache is assumed; the weights are behind a URL: give --storage RATE"
    said = " ".join(run("plan", index, "--device", "h100").stdout.split())
    assert note.lower() in said.lower()
    for arguments in ((index, "--storage", "1GB/s"), (index, "--storage", "page-cache"), (folder,)):
        assert "is assumed" not in run("plan", "--device", "h100", *arguments).stdout
