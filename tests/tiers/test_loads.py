"""Loads through tiers, by the engine and over HTTP."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import signal
import struct
import tempfile
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

import streamload
from streamload import StreamOptions
from streamload._checksums import UNKNOWN, plan_sums
from streamload._engine import CopyEngine, open_device
from streamload._plan import make_reading_plan
from streamload._sources._tiers import CachedFile, TieredSource, list_entries
from streamload.errors import ChangedError

torch = pytest.importorskip("torch")

from streamload.torch import load_file  # noqa: E402 - needs torch

CHUNK_BYTES = 64 << 10


def checkpoint(places, nbytes: int, seed: int = 0) -> bytes:
    """The bytes of a safetensors file of three tensors."""
    third = nbytes // 3
    header = {
        f"t{i}": {"dtype": "U8", "shape": [third], "data_offsets": [i * third, i * third + third]} for i in range(3)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + places.content(3 * third, seed)


@pytest.fixture
def model(places, server):
    """A checkpoint in a store: its URL and what its tensors hold together."""
    data = checkpoint(places, 3_000_000)
    return server.put("model/model.safetensors", data), data[-3_000_000:]


def choose(tmp_path, **chosen: object) -> StreamOptions:
    return StreamOptions(**{"cache_dir": str(tmp_path / "cache"), "chunk_bytes": CHUNK_BYTES, **chosen})


def bytes_of(tensors) -> bytes:
    return b"".join(bytes(tensor.numpy()) for tensor in tensors.values())


def plan_of(start, end):
    """A plan to read a range, and sum it: a read must be for something."""
    plan = make_reading_plan([(0, start, end)], chunk_bytes=CHUNK_BYTES)
    sums, _ = plan_sums(plan, [(0, start, end)])
    return replace(plan, sums=sums, expected=array("Q", [UNKNOWN]))


def load_once(url, options):
    """Read all of a checkpoint with an engine of its own, so that what is put behind the load is there at its end."""
    with CopyEngine(open_device("cpu"), options) as engine, streamload.open(url, options=options) as opened:
        (shard,) = opened.shards
        plan = plan_of(0, shard.nbytes)
        with engine.submit(plan, [shard.source]) as ticket:
            ticket.wait()
            return type(shard.source), ticket.stats()


@pytest.mark.slow
def test_the_second_load_asks_for_nothing_but_the_version(server, model, tmp_path):
    url, data = model
    options = choose(tmp_path)
    kind, stats = load_once(url, options)
    assert kind is TieredSource
    assert stats.tier_written_bytes + stats.tier_bytes == stats.remote_bytes
    assert [entry.complete for entry in list_entries(options.cache_dir)] == [True]
    server.reset()
    kind, stats = load_once(url, options)
    assert kind is CachedFile
    assert (stats.remote_bytes, stats.requests) == (0, 0)
    assert (server.requests, server.sent_bytes) == (1, 1)
    assert bytes_of(load_file(url, "cpu", options=options)) == data


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_the_cache_and_not_the_load(model, tmp_path, caplog):
    url, _ = model
    options = choose(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with streamload.open(url, options=options) as opened, CopyEngine(open_device("cpu"), options) as engine:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            plan = plan_of(0, opened.shards[0].nbytes)
            with engine.submit(plan, [opened.shards[0].source]) as ticket:
                ticket.wait()
        finally:
            engine.close()
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING"]
    load_once(url, options)  # where there is room again
    assert [entry.complete for entry in list_entries(options.cache_dir)] == [True]


@pytest.mark.slow
def test_offline_asks_for_nothing_at_all(server, model, tmp_path):
    url, data = model
    load_once(url, choose(tmp_path))
    server.reset()
    assert bytes_of(load_file(url, "cpu", options=choose(tmp_path, offline=True))) == data
    with pytest.raises(FileNotFoundError, match="offline"):
        load_file(server.url("model/other.safetensors"), "cpu", options=choose(tmp_path, offline=True))
    assert server.requests == 0


@pytest.mark.slow
def test_a_part_that_was_loaded_is_not_fetched_again(places, server, model, tmp_path):
    url, _ = model
    options = choose(tmp_path)
    with CopyEngine(open_device("cpu"), options) as engine, streamload.open(url, options=options) as opened:
        source = opened.shards[0].source
        part = plan_of(1_000_000, 2_000_000)
        with engine.submit(part, [source]) as ticket:
            ticket.wait()
            assert ticket.stats().requests > 0
        engine.close()  # puts what waits
    server.reset()
    with (
        CopyEngine(open_device("cpu"), options) as engine,
        streamload.open(url, options=options) as opened,
        engine.submit(part, [opened.shards[0].source]) as ticket,
    ):
        ticket.wait()
        stats = ticket.stats()
    assert (stats.requests, stats.tier_bytes) == (0, 1_000_000)
    assert server.requests == 1


@pytest.mark.slow
def test_an_object_that_changes_under_the_load_is_never_kept_mixed(places, server, model, tmp_path):
    url, _ = model
    options = choose(tmp_path)
    with CopyEngine(open_device("cpu"), options) as engine, streamload.open(url, options=options) as opened:
        data = checkpoint(places, 3_000_000, seed=1)
        server.put("model/model.safetensors", data)
        plan = plan_of(0, len(data))
        with engine.submit(plan, [opened.shards[0].source]) as ticket, pytest.raises(ChangedError):
            ticket.wait()
    load_once(url, options)
    whole = [path for path in Path(options.cache_dir, "objects").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in whole] == [data]


@pytest.mark.slow
def test_tensors_of_a_tier_in_memory_are_mappings_of_one_file(server, model, tmp_path):
    url, data = model
    options = choose(tmp_path, cache_dir=None, memory_dir=str(tmp_path / "memory"))
    for _ in range(2):
        tensors = load_file(url, "cpu", options=options)
        assert bytes_of(tensors) == data
        (entry,) = list_entries(options.memory_dir)
        assert (entry.complete, entry.in_use) == (True, True)  # by the tensors alone
        del tensors
        assert [entry.in_use for entry in list_entries(options.memory_dir)] == [False]


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm that can be written")
def test_ten_processes_load_one_model_once(places, server):
    data = checkpoint(places, 12_000_000)
    nursery = places.Nursery(torch=True)
    with tempfile.TemporaryDirectory(prefix="streamload-test-", dir="/dev/shm") as memory_dir:
        command = {"url": server.put("model/model.safetensors", data), "options": {"memory_dir": memory_dir}}
        pids = [nursery.start(**command, torch=True, map=True) for _ in range(10)]
        try:
            ready = nursery.wait_until_ready(10)
            assert {told["digest"] for told in ready} == {hashlib.sha256(data[-12_000_000:]).hexdigest()}
            assert len(data) <= server.sent_bytes <= len(data) + 10 * (256 << 10)  # an opening brings first bytes
            shares = [memory_of(pid, memory_dir) for pid in pids]
            assert abs(sum(shares) - len(data)) <= len(data) // 100
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            nursery.close()


def memory_of(pid, directory):
    """The memory of a process's mappings below a directory, each page divided by how many processes map it."""
    total, wanted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            wanted = rest[-1].startswith(directory)
        elif wanted and name == "Pss:":
            total += int(rest[0]) << 10
    return total
