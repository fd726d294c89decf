"""`inspect` and `plan` of some tensors: chosen by name and dtype, in an order, and where their bytes lie."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

from .pull.server import RangeServer

SHAPE = LlamaShape(layers=11, hidden=16, heads=4, kv_heads=2, intermediate=32, vocab=24, dtype="BF16")
LAYERS = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    return make_checkpoint(tmp_path_factory.mktemp("selection"), SHAPE, shards=3)


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def inspected(*arguments: object) -> dict:
    result = run("inspect", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A file of four tensors with two dtypes."""
    header = {
        "b.10.w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b.2.w": {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
        "head": {"dtype": "U8", "shape": [16], "data_offsets": [16, 32]},
    }
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("mixed") / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
    return path


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("offset", ["b.10.w", "b.2.w", "a", "head"]),
        ("name", ["a", "b.2.w", "b.10.w", "head"]),
        ("size", ["head", "b.10.w", "b.2.w", "a"]),
        ("dtype", ["b.10.w", "a", "b.2.w", "head"]),
    ],
)
def test_tensors_are_sorted(mixed, order, names):
    assert list(inspected("--sort", order, mixed)["tensors"]) == names
    listed = run("inspect", "--sort", order, mixed).stdout.rpartition("tensor ")[2].splitlines()[1:]
    assert [line.split()[0] for line in listed] == names


def test_tensors_are_sorted_by_layer_as_the_model_runs_them(mixed, folder):
    found = inspected("--sort", "layer", folder)
    order = [layer["name"] for layer in found["layers"]]
    seen = list(dict.fromkeys(tensor["layer"] for tensor in found["tensors"].values()))
    assert seen == order
    assert order.index("model.layers.2") < order.index("model.layers.10")


def test_names_and_dtypes_choose_what_is_counted_and_listed(mixed):
    assert list(inspected("--match", "b.*", mixed)["tensors"]) == ["b.10.w", "b.2.w"]
    assert list(inspected("--match", "b.2.*", "--match", "a", mixed)["tensors"]) == ["b.2.w", "a"]
    assert list(inspected("--match", "B.*", mixed)["tensors"]) == []
    assert list(inspected("--dtype", "u8", mixed)["tensors"]) == ["b.2.w", "head"]
    assert list(inspected("--dtype", "U8", "--dtype", "F32", mixed)["tensors"]) == ["b.10.w", "b.2.w", "a", "head"]
    both = inspected("--dtype", "U8", "--match", "b.*", mixed)
    assert list(both["tensors"]) == ["b.2.w"]
    assert (both["nbytes"], both["dtypes"], both["shards"][0]["tensors"]) == (4, {"U8": 4}, 1)
    assert [layer["name"] for layer in both["layers"]] == ["b.2"]


def test_a_choice_is_said_beside_the_whole(mixed):
    shown = run("inspect", "--match", "b.*", mixed).stdout
    assert "32 B in 4 tensors" in shown
    assert "chosen: 12 B in 2 tensors" in shown
    assert "head" not in shown
    assert "chosen" not in run("inspect", mixed).stdout
    nothing = run("inspect", "--match", "x", mixed)
    assert (nothing.exit_code, nothing.stdout.splitlines()[-2:]) == (0, ["chosen: 0 B in 0 tensors", "no tensors"])


def test_every_byte_of_a_tensor_is_where_it_is_said_to_lie(folder):
    found = inspected(folder)
    for tensor in found["tensors"].values():
        assert tensor["end"] - tensor["start"] == tensor["nbytes"]
        assert tensor["end"] <= found["shards"][tensor["shard"]]["file_nbytes"]
    name, tensor = next(iter(found["tensors"].items()))
    (line,) = [line for line in run("inspect", "--tensors", folder).stdout.splitlines() if line.startswith(f"{name} ")]
    assert line.split()[-3:] == ["model-00001-of-00003.safetensors", str(tensor["start"]), str(tensor["end"])]


def test_layers_keep_their_names_when_some_tensors_are_left_out(folder):
    whole = {name: tensor["layer"] for name, tensor in inspected(folder)["tensors"].items()}
    for glob in ("*norm*", "lm_head*", "*.q_proj.*"):
        some = {name: tensor["layer"] for name, tensor in inspected("--match", glob, folder)["tensors"].items()}
        assert some
        assert some.items() <= whole.items()


def test_a_plan_of_some_tensors_reads_only_them(folder):
    found = inspected("--match", "*.mlp.*", folder)
    layers = json.loads(run("plan", "--json", "--match", "*.mlp.*", folder).stdout)["layers"]
    assert len(layers) == LAYERS
    assert sum(layer["nbytes"] for layer in layers) == found["nbytes"]
    for layer in layers:
        members = [tensor for tensor in found["tensors"].values() if tensor["layer"] == layer["layer"]]
        for shard, start, end in layer["places"]:
            inside = [tensor for tensor in members if tensor["shard"] == shard]
            assert start == min(tensor["start"] for tensor in inside)
            assert end == max(tensor["end"] for tensor in inside)
        assert layer["dtypes"] == {"BF16": layer["nbytes"]}
    shard, start, end = layers[0]["places"][0]
    assert f"{shard}:{start}-{end}" in run("plan", "--match", "*.mlp.*", folder).stdout


def test_a_plan_of_nothing_is_empty(folder):
    result = run("plan", "--match", "x", folder)
    assert (result.exit_code, "0 groups" in result.stdout) == (0, True)


def test_a_forecast_is_about_a_whole_checkpoint(folder):
    refused = run("plan", "--device", "h100", "--match", "x", folder)
    assert (refused.exit_code, "leave out --match" in refused.stderr) == (2, True)


def test_an_order_that_there_is_not_is_refused(folder):
    assert run("inspect", "--sort", "colour", folder).exit_code == 2


def test_choices_work_behind_a_url(folder):
    with RangeServer({f"m/{path.name}": path.read_bytes() for path in folder.iterdir()}) as server:
        url = f"{server.url}/m/model.safetensors.index.json"
        arguments = ("--match", "*.mlp.*", "--sort", "size")
        there, here = inspected(*arguments, url), inspected(*arguments, folder)
        assert list(there["tensors"].items()) == list(here["tensors"].items())
        assert "model-00001-of-00003.safetensors" in run("inspect", "--tensors", url).stdout


@pytest.mark.slow
def test_choices_work_in_a_bucket(moto, folder):
    pytest.importorskip("s3fs")
    url = moto.put_folder("chosen", folder, "m")
    given = []
    for name, value in moto.options().items():
        given += ["--storage-option", f"{name}={json.dumps(value) if isinstance(value, dict) else value}"]
    there, here = (inspected("--dtype", "BF16", "--sort", "layer", *place) for place in ((url, *given), (folder,)))
    assert list(there["tensors"].items()) == list(here["tensors"].items())
    planned = [json.loads(run("plan", "--json", *place).stdout)["layers"] for place in ((url, *given), (folder,))]
    assert planned[0] == planned[1]
