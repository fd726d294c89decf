"""Many processes share a tier, and any of them may be killed anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import google_crc32c
import pytest

from streamload._sources._tiers import list_entries, prune

CHUNKS = 24


def whole_objects(directory):
    return [path for path in Path(directory, "objects").rglob("*") if path.is_file()]


def digest_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def memory_dir():
    """A directory in memory."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK):
        pytest.skip("no /dev/shm that can be written")
    directory = tempfile.mkdtemp(prefix="streamload-test-", dir=place)
    yield directory
    shutil.rmtree(directory)


def kill_at(server, nursery, most_bytes, **command: object):
    """Start a load and kill it when the store has sent so many bytes; wait for its end."""
    known = threading.Event()
    started = []

    def kill():
        known.wait(60)
        os.kill(started[0], signal.SIGKILL)

    server.reset()
    server.most_bytes, server.exhausted = most_bytes, kill
    started.append(nursery.start(**command))
    known.set()
    return nursery.wait(started[0])


@pytest.mark.slow
@pytest.mark.parametrize("engine", [False, True], ids=["python", "engine"])
def test_a_load_killed_anywhere_is_completed_by_the_next(places, server, nursery, tmp_path, engine, kills):
    chosen = random.Random(kills)
    for round_ in range(kills):
        nbytes = CHUNKS * places.CHUNK_BYTES - chosen.randrange(places.CHUNK_BYTES)
        data = places.content(nbytes, round_)
        digest = hashlib.sha256(data).hexdigest()
        cache = str(tmp_path / f"cache-{round_}")
        Path(cache).mkdir()
        command = {"url": server.put("object", data), "options": {"cache_dir": cache}, "engine": engine}
        # Every third at the very end, where it is published.
        first = nbytes - places.CHUNK_BYTES if round_ % 3 == 0 else 1
        ended = kill_at(server, nursery, chosen.randrange(first, nbytes + 1), **command)
        assert ended["status"] in (-signal.SIGKILL, 0), ended
        assert [digest_of(path) for path in whole_objects(cache)] in ([], [digest])
        kept = sum(entry.stored_bytes for entry in list_entries(cache))
        again = nursery.wait(nursery.start(**command))
        told = f"{google_crc32c.value(data):08x}" if engine else digest
        assert (again["status"], again["result"]["digest"]) == (0, told), again
        assert [digest_of(path) for path in whole_objects(cache)] == [digest]
        prune(cache)
        assert [path for path in Path(cache, "partial").iterdir()] == []
        assert kept <= nbytes + places.CHUNK_BYTES
        shutil.rmtree(cache)


@pytest.mark.slow
def test_a_load_killed_and_never_repeated_leaves_nothing_after_prune(places, server, nursery, tmp_path):
    data = places.content(CHUNKS * places.CHUNK_BYTES, 77)
    options = {"cache_dir": str(tmp_path)}
    kill_at(server, nursery, len(data) // 2, url=server.put("object", data), options=options)
    assert prune(tmp_path).freed_bytes > 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"lock"}


@pytest.mark.slow
def test_ten_processes_share_one_download_and_one_copy_in_memory(places, server, nursery, memory_dir):
    data = places.content(16 << 20, 3)
    command = {"url": server.put("object", data), "options": {"memory_dir": memory_dir}, "map": True}
    pids = [nursery.start(**command) for _ in range(10)]
    try:
        ready = nursery.wait_until_ready(10)
        assert {told["digest"] for told in ready} == {hashlib.sha256(data).hexdigest()}
        # Each asks for the version, and gets the first bytes with it.
        assert server.sent_bytes == len(data) + 9 * places.HEAD_BYTES
        (path,) = {told["path"] for told in ready}
        shares = [proportional_bytes(pid, path) for pid in pids]
        assert abs(sum(shares) - len(data)) <= len(data) // 100
        assert max(shares) <= len(data) // 9
        entries = list_entries(memory_dir)
        assert [(entry.complete, entry.in_use) for entry in entries] == [(True, True)]
        assert prune(memory_dir, max_bytes=0).entries == ()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            nursery.wait(pid)
    assert len(prune(memory_dir, max_bytes=0).entries) == 1


def proportional_bytes(pid, path):
    """The memory of a process's mappings of one file, each page divided by how many processes map it."""
    total, wanted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            wanted = rest[-1] == path
        elif wanted and name == "Pss:":
            total += int(rest[0]) << 10
    return total


@pytest.mark.slow
def test_processes_that_evict_and_are_killed_harm_nobody(places, server, nursery, tmp_path, kills):
    chosen = random.Random(5)
    objects = [places.content(6 * places.CHUNK_BYTES + seed, seed) for seed in range(4)]
    options = {"cache_dir": str(tmp_path), "cache_bytes": 2 * 6 * places.CHUNK_BYTES + 1000}
    for _ in range(max(2, kills // 4)):
        seeds = [chosen.randrange(4) for _ in range(6)]
        pids = [nursery.start(url=server.put(f"o{seed}", objects[seed]), options=options) for seed in seeds]
        with contextlib.suppress(ProcessLookupError):  # it may have been quicker
            os.kill(pids[0], signal.SIGKILL)
        for seed, pid in zip(seeds[1:], pids[1:], strict=True):
            ended = nursery.wait(pid)
            assert ended["status"] == 0, ended
            assert ended["result"]["digest"] == hashlib.sha256(objects[seed]).hexdigest()
        nursery.wait(pids[0])
        assert sum(entry.stored_bytes for entry in list_entries(tmp_path)) <= options["cache_bytes"] + 4 * 4096
    whole = {hashlib.sha256(data).hexdigest() for data in objects}
    assert {digest_of(path) for path in whole_objects(tmp_path)} <= whole
