"""Host memory stays within the ring and a little more, however large the checkpoint; under limits that would end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamload

MIB = 1 << 20
LIMIT = 256 * MIB + 64 * MIB  # the ring's default cap and what else the library may take
NBYTES = 8 * LIMIT
MARK_EVERY = 97 * MIB + 12345

# Reads the file, which is mostly a hole, through the ring into a mapping of another file: pages of neither are private.
CHILD = """
import json, mmap, resource, sys, ctypes
from streamload._engine import CopyEngine
from streamload._machine import private_bytes
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource
from streamload.options import StreamOptions

source_path, target_path, nbytes, limit, mark_every, limited = *sys.argv[1:3], *map(int, sys.argv[3:])
target = open(target_path, "r+b")
mapping = mmap.mmap(target.fileno(), nbytes)
view = (ctypes.c_ubyte * 1).from_buffer(mapping)
if limited:
    lines = open("/proc/self/status").read().splitlines()
    now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + limit, now + limit))
before = private_bytes()
plan = make_plan([[Copy(0, 0, nbytes, ctypes.addressof(view))]], chunk_bytes=StreamOptions().chunk_bytes)
with FileSource(source_path) as source, CopyEngine(HostDevice(staged=True)) as engine:
    with engine.submit(plan, [source], keep_alive=[mapping]) as ticket:
        ticket.wait()
        stats = ticket.stats()
    took = private_bytes() - before
marks = all(mapping[at : at + 8] == at.to_bytes(8, "little") for at in range(0, nbytes - 8, mark_every))
print(json.dumps({"marks": marks, "staging": stats.staging_bytes, "resident": stats.bytes_resident, "took": took}))
"""


@pytest.fixture
def files(tmp_path):
    """A large file with a few bytes in it, and one of its size to be filled."""
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    with source.open("wb") as file:
        for at in range(0, NBYTES - 8, MARK_EVERY):
            file.seek(at)
            file.write(at.to_bytes(8, "little"))
        file.truncate(NBYTES)
    with target.open("wb") as file:
        file.truncate(NBYTES)
    return source, target


def run_child(files, *, limited: bool, prefix=()) -> dict:
    numbers = [str(number) for number in (NBYTES, LIMIT, MARK_EVERY, int(limited))]
    environment = {**os.environ, "PYTHONPATH": str(Path(streamload.__file__).parents[1])}
    command = [*prefix, sys.executable, "-c", CHILD, *map(str, files), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(answer) -> None:
    assert answer["marks"]
    assert answer["resident"] == NBYTES
    assert 0 < answer["staging"] <= 256 * MIB
    assert answer["took"] <= LIMIT


@pytest.mark.slow
def test_a_checkpoint_eight_times_the_limit_loads_under_rlimit_data(files):
    check(run_child(files, limited=True))


@pytest.mark.slow
def test_a_checkpoint_eight_times_the_limit_loads_in_a_control_group(files):
    memory = Path("/sys/fs/cgroup/memory")
    group = (memory if memory.is_dir() else memory.parent) / f"streamload-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if memory.is_dir() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        check(run_child(files, limited=False, prefix=["sh", "-c", enter, "sh"]))
    finally:
        group.rmdir()
