"""A small sharded checkpoint, the server that has it, and the command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from streamload.testing import LlamaShape, make_checkpoint

from .server import RangeServer

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = LlamaShape(layers=3, hidden=256, heads=4, kv_heads=2, intermediate=512, vocab=2000, dtype="BF16")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The files of a model by name: three shards of 1.9 MB, index, config."""
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(folder, SHAPE, shards=3)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def server(files):
    """A server that has the model below llama/."""
    with RangeServer({f"llama/{name}": data for name, data in files.items()}) as server:
        yield server


@pytest.fixture
def index(server) -> str:
    """URL of the model's index."""
    return f"{server.url}/llama/model.safetensors.index.json"


@pytest.fixture
def pulling(tmp_path):
    """Return a function that starts `streamload` with arguments in a process of its own."""
    started = []

    def start(*arguments: object, **fields: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "streamload", *map(str, arguments)]
        environment = {**os.environ, "STREAMLOAD_OPTION_CHUNK_BYTES": "65536", "COLUMNS": "100"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
        started.append(subprocess.Popen(command, **{**pipes, **fields}))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def weights_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """What an index stands for: itself and its shards."""
    return {name: data for name, data in files.items() if name != "config.json"}


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path there."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def names_in(directory: Path) -> set[str]:
    """The names in a directory."""
    return {path.name for path in directory.iterdir()}
