"""Host memory stays within its limit while a model many times as large passes through slots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamload

pytestmark = pytest.mark.slow

MIB = 1 << 20
HOST_MEMORY = 64 * MIB
ROOM = 128 * MIB  # the stacks of threads count as data, though next to nothing of them is touched
# Two passes over 1 GB of weights, whose file is mostly a hole, in a process that may take this much more data.
CHILD = """
import json, resource, sys
import torch
import streamload
from streamload._engine import CopyEngine
from streamload._machine import private_bytes
from streamload._native import HostDevice
from streamload.torch import stream_module

path, layers, limit, host_memory = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
with torch.device("meta"):
    module = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048, bias=False) for _ in range(layers)))
module.requires_grad_(False)
x = torch.ones(1, 2048)
torch.nn.functional.linear(x, torch.ones(8, 2048))
lines = open("/proc/self/status").read().splitlines()
now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (now + limit, now + limit))
before = private_bytes()
options = streamload.StreamOptions(
    device_memory=80 << 20, host_memory=host_memory, chunk_bytes=1 << 20, staging_bytes=32 << 20
)
with streamload.open(path) as checkpoint, CopyEngine(HostDevice(staged=True), options) as engine:
    loading = stream_module(module, checkpoint, "cpu", engine=engine)
    sums = [float(module[0](x).sum()), float(module[layers - 1](x).sum())]
    for _ in range(2):
        module(x)
    stats = loading.rotation_stats()
    took = private_bytes() - before
    loading.close()
print(json.dumps({"sums": sums, "streamed": stats.bytes_streamed, "host": stats.bytes_from_host, "took": took}))
"""


@pytest.mark.parametrize("host_memory", [0, HOST_MEMORY], ids=["from files", "and host memory"])
def test_streaming_stays_within_a_limit_an_eighth_of_the_weights(tmp_path, host_memory):
    layers, each = 64, 2048 * 2048 * 4
    path = tmp_path / "model.safetensors"
    names = {
        f"{number}.weight": {
            "dtype": "F32",
            "shape": [2048, 2048],
            "data_offsets": [number * each, (number + 1) * each],
        }
        for number in range(layers)
    }
    header = json.dumps(names).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        for number in (0, layers - 1):  # a one in the first and the last weight
            file.seek(start + number * each)
            file.write(b"\x00\x00\x80\x3f")
        file.truncate(start + layers * each)
    limit = layers * each // 8 + host_memory
    environment = {**os.environ, "PYTHONPATH": str(Path(streamload.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, str(path), str(layers), str(limit + ROOM), str(host_memory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["sums"] == [1.0, 1.0]
    assert answer["streamed"] > 1.5 * layers * each
    assert (answer["host"] > 0) == (host_memory > 0)
    assert answer["took"] <= limit
