"""How bytes are read is chosen by what the page cache holds, and every choice, right or forced, shows in LoadStats."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from streamload import StreamOptions, _native
from streamload._engine import CopyEngine, ReadPool
from streamload._machine import cached_fraction, drop_from_cache
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource

CHUNK = 1 << 20
NBYTES = 8 * CHUNK + 12345
DATA = os.urandom(1 << 16) * (NBYTES >> 16) + os.urandom(NBYTES % (1 << 16))
START = 1000  # of the wanted bytes in the file, off every grid
PAGE = mmap.PAGESIZE
NOBODY = 65534


def options(direct_io=None):
    return StreamOptions(chunk_bytes=CHUNK, staging_bytes=4 * CHUNK, read_threads=2, direct_io=direct_io)


class Place:
    """Host memory for the bytes of DATA from START on, at an address that agrees with the file's grid, or does not."""

    def __init__(self, *, on_grid: bool) -> None:
        self.memory = mmap.mmap(-1, NBYTES + 2 * PAGE)
        self.view = (ctypes.c_ubyte * len(self.memory)).from_buffer(self.memory)
        self.offset = START + (0 if on_grid else 8)
        copies = [Copy(0, START, NBYTES, ctypes.addressof(self.view) + self.offset)]
        self.plan = make_plan([copies], chunk_bytes=CHUNK)

    def holds_data(self) -> bool:
        return self.memory[self.offset : self.offset + NBYTES - START] == DATA[START:]


def load(path, engine_options=None, *, on_grid=False, device=None, pool=None):
    """Load the file into a place, check every byte, and return what the engine says it did."""
    place = Place(on_grid=on_grid)
    chosen = options() if engine_options is None else engine_options
    with (
        FileSource(path) as source,
        CopyEngine(HostDevice() if device is None else device, chosen, pool=pool) as engine,
    ):
        with engine.submit(place.plan, [source], keep_alive=[place.view]) as ticket:
            ticket.wait(60)
            stats, trace = ticket.stats(), ticket.trace()
        assert place.holds_data()
    assert stats.bytes_read == NBYTES - START
    assert stats.buffered_bytes + stats.direct_bytes + stats.callback_bytes == stats.bytes_read
    assert sum(chunk.nbytes for chunk in trace if chunk.route == "direct") == stats.direct_bytes
    assert sum(chunk.nbytes for chunk in trace if chunk.cache == "cached") == stats.cached_bytes
    assert sum(chunk.nbytes for chunk in trace if chunk.in_place) == stats.in_place_bytes
    return stats


@pytest.fixture
def warm_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(DATA)
    if not cached_fraction(path):
        pytest.skip("the kernel does not say what the page cache holds (cachestat, Linux 6.5)")
    return path


@pytest.fixture
def cold_file(warm_file):
    drop_from_cache(warm_file)
    if cached_fraction(warm_file):
        pytest.skip(f"{warm_file.parent} lies on a file system that keeps its files in memory")
    return warm_file


STAGED = HostDevice(staged=True)


@pytest.mark.parametrize("device", [HostDevice(), STAGED], ids=["in place", "staged"])
def test_a_cached_file_is_read_through_the_page_cache(device, warm_file):
    stats = load(warm_file, device=device)
    assert stats.buffered_bytes == stats.cached_bytes == stats.bytes_read
    assert stats.probed_bytes == stats.cached_direct_bytes == stats.uncached_buffered_bytes == 0
    assert stats.in_place_bytes == (0 if device is STAGED else stats.bytes_read)


@pytest.mark.parametrize("device", [HostDevice(), STAGED], ids=["in place", "staged"])
def test_a_cold_file_is_read_around_the_page_cache_and_stays_cold(device, cold_file):
    stats = load(cold_file, device=device)
    assert stats.direct_bytes == stats.uncached_bytes == stats.bytes_read
    assert stats.cached_direct_bytes == stats.uncached_buffered_bytes == stats.in_place_bytes == 0
    assert cached_fraction(cold_file) == 0


def test_a_cold_file_lands_in_memory_that_agrees_with_its_grid_without_staging(cold_file):
    stats = load(cold_file, on_grid=True)
    assert stats.direct_bytes == stats.bytes_read
    assert stats.in_place_bytes >= stats.bytes_read - (64 << 10)  # a short last read is staged


def test_a_half_cached_file_is_read_both_ways(cold_file):
    with cold_file.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(4 * CHUNK)
    stats = load(cold_file)
    assert stats.buffered_bytes == stats.cached_bytes
    assert stats.direct_bytes == stats.uncached_bytes
    assert 3 * CHUNK <= stats.buffered_bytes <= 5 * CHUNK


@pytest.mark.parametrize("device", [HostDevice(), STAGED], ids=["in place", "staged"])
def test_direct_reads_of_a_cached_file_show(device, warm_file):
    stats = load(warm_file, options(direct_io=True), device=device)
    assert stats.cached_direct_bytes == stats.direct_bytes == stats.bytes_read


def test_buffered_reads_of_a_cold_file_show(cold_file):
    stats = load(cold_file, options(direct_io=False))
    assert stats.buffered_bytes == stats.bytes_read
    assert stats.uncached_buffered_bytes > 0  # read-ahead may have fetched some of it in between


@pytest.mark.parametrize("io_uring", [True, False])
@pytest.mark.parametrize("on_grid", [True, False])
def test_without_io_uring_the_reading_threads_read_directly(io_uring, on_grid, cold_file):
    pool = ReadPool(options())
    pool.native = _native.ReadPool(chunk_bytes=CHUNK, staging_bytes=4 * CHUNK, read_threads=2, use_io_uring=io_uring)
    stats = load(cold_file, pool=pool, on_grid=on_grid)
    assert stats.direct_bytes == stats.bytes_read
    if not io_uring:
        assert stats.uring_bytes == 0
    elif stats.uring_bytes == 0:
        pytest.skip("the kernel, or what confines this process, refuses io_uring")
    else:
        assert stats.uring_bytes == stats.bytes_read


def test_a_file_in_memory_is_never_read_directly():
    shared = Path("/dev/shm")
    if not shared.is_dir() or not os.access(shared, os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    path = shared / f"streamload-test-{os.getpid()}.bin"
    try:
        path.write_bytes(DATA)
        stats = load(path)
    finally:
        path.unlink(missing_ok=True)
    assert stats.buffered_bytes == stats.cached_bytes == stats.bytes_read


def in_a_child_of_somebody_else(work) -> dict:
    """Run `work` in a forked child that is nobody and may lock next to no memory; return its answer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer: dict = {}
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = asdict(work())
        except BaseException as error:  # the top of the child: told to the parent
            answer = {"error": repr(error)}
        finally:
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert "error" not in answer, answer
    return answer


@pytest.fixture
def file_of_root(cold_file):
    """A cold file that everybody may read and only root may write."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    cold_file.chmod(0o644)
    for directory in cold_file.parents:
        if not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    return cold_file


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads and fork: the child starts its own
@pytest.mark.parametrize("state", ["warm", "cold"])
def test_somebody_elses_file_is_probed_and_read_under_a_small_memlock_limit(state, file_of_root):
    if state == "warm":
        file_of_root.read_bytes()
    stats = in_a_child_of_somebody_else(lambda: load(file_of_root))
    if stats["probed_bytes"] == 0:
        pytest.skip("this kernel tells everybody what the page cache holds")
    assert stats["probed_bytes"] == stats["bytes_read"]
    # A probe is a guess by time: on a busy machine a few may come out wrong, most may not.
    assert stats["buffered_bytes" if state == "warm" else "direct_bytes"] >= 0.7 * stats["bytes_read"], stats
