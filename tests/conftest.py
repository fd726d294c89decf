"""What every test shares: where the repository is, and how hypothesis behaves.

Tests of one room keep their fixtures beside them; what users of the library may need too lives in
`streamload.testing`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from .servers.fixtures import (  # noqa: F401 - fixtures for every room
    _origin_proxy,
    _swift_proxy,
    chromium,
    fault_proxy,
    moto,
    nginx,
    origin,
    swift,
    swift_faults,
    swift_tls,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# No deadlines: a shared machine is slow at times, and time is asserted in one place only (test_imports.py).
settings.register_profile("local", deadline=None)
# On CI a red build must be repeatable from its log alone.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a short run, and a long one, choose how many random faults and kills there are."""
    parser.addoption("--fault-schedules", type=int, default=1000, help="random schedules of faults (default: 1000)")
    parser.addoption("--kills", type=int, default=5, help="times that a load or pull is killed (default: 5)")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Let SIGINT interrupt, also where the tests run in the background of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def open_descriptors() -> Callable[[], set[str]]:
    """Return a function that lists the descriptors this process has open."""
    return lambda: set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path would hold one of its own while it lists


@pytest.fixture
def own_threads() -> Callable[[], list[str]]:
    """Return a function that names the threads streamload runs in this process, native ones and Python's."""

    def own_threads() -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        for comm in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                names.append(comm.read_text().strip())
        return [name for name in names if name.startswith("streamload")]

    return own_threads


@pytest.fixture
def write():
    """Return a function that writes a safetensors file whose tensors are U8 of `nbytes` bytes each."""

    def write(path, *names: str, metadata=None, nbytes=4):
        header = {
            name: {"dtype": "U8", "shape": [nbytes], "data_offsets": [at * nbytes, at * nbytes + nbytes]}
            for at, name in enumerate(names)
        }
        if metadata is not None:
            header["__metadata__"] = metadata
        text = json.dumps(header).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<Q", len(text)) + text + path.name.encode()[:1] * nbytes * len(names))
        return path

    return write


@pytest.fixture
def write_index():
    """Return a function that writes an index."""

    def write_index(path, weight_map):
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        return path

    return write_index


@pytest.fixture
def sharded(tmp_path, write, write_index):
    """Return a directory of three shards and their index."""
    write(tmp_path / "model-00001-of-00003.safetensors", "a", "b", metadata={"format": "pt", "part": "1"})
    write(tmp_path / "model-00002-of-00003.safetensors", "c", metadata={"part": "2", "more": "x"})
    write(tmp_path / "model-00003-of-00003.safetensors", "d")
    shards = {"a": 1, "b": 1, "c": 2, "d": 3}
    weight_map = {name: f"model-0000{shard}-of-00003.safetensors" for name, shard in shards.items()}
    write_index(tmp_path / "model.safetensors.index.json", weight_map)
    return tmp_path
