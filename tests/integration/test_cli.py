"""The commands as a user meets them: what they print, and one line and exit code 2 for what a user gets wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

SHAPE = LlamaShape(layers=11, hidden=16, heads=4, kv_heads=2, intermediate=32, vocab=24, dtype="BF16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small sharded checkpoint's directory."""
    return str(make_checkpoint(tmp_path_factory.mktemp("cli"), SHAPE, shards=3))


def run(*arguments: str):
    """Run a command in this process; a bug's traceback is not hidden."""
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_inspect_shows_shards_layers_and_dtypes_in_order(checkpoint):
    result = run("inspect", checkpoint)
    assert result.exit_code == 0
    assert "model-00002-of-00003.safetensors" in result.output
    assert "BF16" in result.output
    assert result.output.index("layers.2 ") < result.output.index("layers.10 ")
    assert "102 tensors, 3 shards, 14 layers" in result.output
    assert "q_proj" not in result.output
    assert "q_proj" in run("inspect", "--tensors", checkpoint).output


def test_inspect_json_holds_every_tensor(checkpoint):
    described = json.loads(run("inspect", "--json", checkpoint).output)
    assert {name: tuple(tensor["shape"]) for name, tensor in described["tensors"].items()} == SHAPE.tensors()
    assert described["nbytes"] == SHAPE.nbytes == sum(layer["nbytes"] for layer in described["layers"])
    assert sum(shard["nbytes"] for shard in described["shards"]) == SHAPE.nbytes


def test_plan_counts_every_byte_once(checkpoint):
    described = json.loads(run("plan", "--json", checkpoint).output)
    assert sum(layer["nbytes"] for layer in described["layers"]) == SHAPE.nbytes
    assert all(layer["copies"] >= layer["reads"] >= 1 for layer in described["layers"])
    assert sum(layer["tensors"] for layer in described["layers"]) == 102


def test_plan_with_smaller_chunks_reads_more_often(tmp_path):
    shape = LlamaShape(layers=1, hidden=128, heads=4, kv_heads=4, intermediate=512, vocab=512)
    path = str(make_checkpoint(tmp_path, shape, shards=1))
    reads = [
        sum(layer["reads"] for layer in json.loads(run("plan", "--json", "--chunk-bytes", size, path).output)["layers"])
        for size in ("65536", "1048576")
    ]
    assert reads[0] > reads[1]
    assert "at most 65.5 kB" in run("plan", "--chunk-bytes", "65536", path).output


def test_plan_takes_its_options_from_the_environment(checkpoint, monkeypatch):
    monkeypatch.setenv("STREAMLOAD_OPTION_CHUNK_BYTES", "65536")
    assert json.loads(run("plan", "--json", checkpoint).output)["chunk_bytes"] == 65536
    monkeypatch.setenv("STREAMLOAD_OPTION_CHUNK_BITES", "65536")
    assert run("plan", checkpoint).exit_code == 2


def write(path, content):
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("command", ["inspect", "plan"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda directory: str(directory / "missing"), "no such file"),
        (lambda directory: str(directory), "no safetensors file"),
        (lambda directory: write(directory / "pytorch_model.bin", b"\x80\x02"), "pickle"),
        (lambda directory: write(directory / "notes.txt", b"hello, this is text"), "notes.txt"),
        (lambda directory: write(directory / "x.safetensors", (2**63).to_bytes(8, "little")), "x.safetensors"),
        (lambda directory: "nonsense://bucket/model", "not supported"),
        (lambda directory: "", "empty"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(tmp_path, command, make, says):
    result = run(command, make(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_bad_options_are_refused_too(checkpoint, tmp_path):
    for arguments in (
        ("plan", "--chunk-bytes", "1000", checkpoint),
        ("demo", "--device", "abacus", "--directory", str(tmp_path)),
        ("bench", "engine", "--device", "abacus", checkpoint),
        ("bench", "engine", str(tmp_path / "missing")),
        ("demo", "--model", str(tmp_path / "missing"), "--directory", str(tmp_path)),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stderr.count("\n") == 1, arguments


def test_version_and_help_are_there():
    import streamload

    assert streamload.__version__ in run("--version").output
    for command in ("inspect", "plan", "demo", "bench"):
        assert command in run("--help").output
        assert run(command, "--help").exit_code == 0


def commands_below(group, words=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_below(command, (*words, name))
        else:
            yield (*words, name)


def test_every_command_has_help_with_an_example_of_itself():
    every = list(commands_below(main))
    assert len(every) > 15
    for words in every:
        text = " ".join(run(*words, "--help").output.split())
        assert re.search(rf"Examples?: streamload {' '.join(words)} ", text), words


def test_inspect_and_plan_need_no_extra(checkpoint):
    program = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'safetensors', 'matplotlib'): sys.modules[name] = None\n"
        "from streamload.cli import main\n"
        "main()"
    )
    for command in ("inspect", "plan"):
        done = subprocess.run([sys.executable, "-c", program, command, checkpoint], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "layers.10" in done.stdout


def test_demo_without_torch_says_what_to_install():
    program = "import sys\nsys.modules['torch'] = None\nfrom streamload.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program, "demo"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_ends_quietly(checkpoint):
    program = "from streamload.cli import main\nmain()"
    command = [sys.executable, "-c", program, "inspect", "--json", checkpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
