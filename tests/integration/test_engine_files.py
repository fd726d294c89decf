"""Files under a load: changed, replaced, gone, oddly named, more than may be open; and what a load tells of itself."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import threading
import weakref
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from streamload._engine import ChunkTrace, CopyEngine, LoadStats, open_device, shared_engine
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource, MemorySource
from streamload.errors import ChangedError, DeviceError, ShortReadError, StreamClosedError
from streamload.options import StreamOptions

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 64 << 10
GROUPS = 4
NBYTES = GROUPS * 3 * CHUNK
DATA = bytes(range(256)) * (NBYTES // 256)
OPTIONS = StreamOptions(chunk_bytes=CHUNK, staging_bytes=4 * CHUNK, read_threads=2)


class Memory:
    """Destination of a whole file, as four groups of three chunks."""

    def __init__(self) -> None:
        self.bytes = (ctypes.c_ubyte * NBYTES)()
        third = NBYTES // GROUPS
        groups = [[Copy(0, i, i + third, ctypes.addressof(self.bytes) + i)] for i in range(0, NBYTES, third)]
        self.plan = make_plan(groups, chunk_bytes=CHUNK)

    def holds_data(self) -> bool:
        return bytes(self.bytes) == DATA


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("poison", [True, False])
@pytest.mark.parametrize("change", ["truncate", "replace", "rewrite"])
def test_a_file_changed_before_the_load_is_a_changed_error(data_file, change, poison):
    with FileSource(data_file) as source:
        change_file(data_file, change)
        with CopyEngine(HostDevice(poison=poison), OPTIONS) as engine, pytest.raises(ChangedError) as caught:
            engine.submit(Memory().plan, [source])
    assert caught.value.url == str(data_file)
    assert str(data_file) in str(caught.value)


@pytest.mark.parametrize("change", ["truncate", "replace", "rewrite"])
def test_a_file_changed_under_the_load_is_never_loaded(data_file, change):
    # A link slow enough that most of the file is unread when it changes: 12 chunks of 4 ms, 4 staging buffers.
    device = HostDevice(link_bytes_per_second=CHUNK / 4e-3)
    memory = Memory()
    with FileSource(data_file) as source, CopyEngine(device, OPTIONS) as engine:
        ticket = engine.submit(memory.plan, [source], keep_alive=[memory.bytes])
        ticket.wait_group(0)
        change_file(data_file, change)
        with pytest.raises((ChangedError, ShortReadError)) as caught:
            ticket.wait(30)
        assert caught.value.url == str(data_file)
        with pytest.raises((ChangedError, ShortReadError)):
            ticket.wait_group(0)
        ticket.close()


def change_file(path: Path, change: str) -> None:
    if change == "truncate":
        os.truncate(path, NBYTES // 2)
    elif change == "replace":
        other = path.with_suffix(".new")
        other.write_bytes(DATA)
        other.replace(path)
    else:
        with path.open("r+b") as file:
            file.write(b"\xff")
        os.utime(path, ns=(1, 1))


def test_a_missing_file_and_a_file_without_permission_are_builtin_errors(data_file):
    with FileSource(data_file) as source, CopyEngine(HostDevice(), OPTIONS) as engine:
        data_file.unlink()
        with pytest.raises(FileNotFoundError) as caught:
            engine.submit(Memory().plan, [source])
    assert caught.value.filename == str(data_file)


@pytest.mark.parametrize("name", ["", "gpu", "cpu:1", "cuda:x", "cuda:-1", "mps", "cuda:0:1"])
def test_a_device_of_no_known_form_is_a_value_error(name):
    with pytest.raises(ValueError, match="device must be"):
        open_device(name)


def test_a_cuda_device_that_does_not_exist_is_a_device_error():
    with pytest.raises(DeviceError, match=r"cuda:99|no CUDA driver"):
        open_device("cuda:99")


def test_loads_of_a_process_share_an_engine_that_ends_with_its_last_user():
    first = shared_engine("cpu", OPTIONS)
    second = shared_engine("cpu", OPTIONS)
    assert second is first
    assert shared_engine("cpu", StreamOptions()) is not first
    alive = weakref.ref(first)
    del first
    assert alive() is second
    del second
    gc.collect()
    assert alive() is None


def test_a_closed_shared_engine_is_not_handed_out_again():
    first = shared_engine("cpu", OPTIONS)
    first.close()
    again = shared_engine("cpu", OPTIONS)
    assert again is not first
    assert not again.closed


def test_memory_sources_load_like_files():
    memory = Memory()
    with CopyEngine(HostDevice(), OPTIONS) as engine:
        engine.submit(memory.plan, [MemorySource(DATA)], keep_alive=[memory.bytes]).wait(30)
    assert memory.holds_data()


def test_stats_and_traces_add_up(data_file):
    memory = Memory()
    with FileSource(data_file) as source, CopyEngine(HostDevice(poison=True), OPTIONS) as engine:
        ticket = engine.submit(memory.plan, [source], keep_alive=[memory.bytes])
        ticket.wait(30)
        stats, trace = ticket.stats(), ticket.trace()
        ticket.close()
    assert {field.name for field in fields(LoadStats)} == set(ticket._native.stats())
    assert stats.bytes_total == stats.bytes_read == stats.bytes_resident == NBYTES
    assert stats.buffered_bytes + stats.direct_bytes == NBYTES
    assert stats.groups == stats.groups_resident == GROUPS
    assert 0 < stats.first_group_seconds <= stats.seconds
    assert CHUNK <= stats.pinned_bytes <= OPTIONS.staging_bytes
    assert isinstance(trace[0], ChunkTrace)
    assert sum(chunk.nbytes for chunk in trace) == NBYTES
    for chunk in trace:
        assert 0 <= chunk.read_start <= chunk.read_end <= chunk.copy_issued <= chunk.copy_done <= stats.seconds


def test_errors_survive_pickling():
    for error in (
        ShortReadError("short", url="u", offset=1, nbytes=2, errno=3),
        DeviceError("device", code=700),
        StreamClosedError("closed"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def test_a_path_that_is_not_text_loads_and_is_named_in_errors(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"weights-\xff\xfe.bin")  # noqa: PTH118 - pathlib takes no bytes
    with open(path, "wb") as file:  # noqa: PTH123 - as above
        file.write(DATA)
    memory = Memory()
    with FileSource(os.fsdecode(path)) as source, CopyEngine(HostDevice(), OPTIONS) as engine:
        with engine.submit(memory.plan, [source], keep_alive=[memory.bytes]) as ticket:
            ticket.wait(30)
        assert memory.holds_data()
        os.truncate(path, 10)
        with pytest.raises(ChangedError) as caught:
            engine.submit(memory.plan, [source])
        assert os.fsencode(caught.value.url) == path


def test_a_relative_path_is_read_wherever_the_process_has_moved_to(data_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = Memory()
    with FileSource(data_file.name) as source, CopyEngine(HostDevice(), OPTIONS) as engine:
        monkeypatch.chdir("/")
        with engine.submit(memory.plan, [source], keep_alive=[memory.bytes]) as ticket:
            ticket.wait(30)
    assert memory.holds_data()


def test_more_shards_than_the_process_may_open_files(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shards = 40
    size = NBYTES // shards
    paths = [tmp_path / str(number) for number in range(shards)]
    for number, path in enumerate(paths):
        path.write_bytes(DATA[number * size : (number + 1) * size])
    memory = (ctypes.c_ubyte * NBYTES)()
    groups = [[Copy(n, 0, size, ctypes.addressof(memory) + n * size)] for n in range(shards)]
    sources = [FileSource(path) for path in paths]
    room = max(map(int, os.listdir("/proc/self/fd"))) + 12  # noqa: PTH208 - Path would hold one of its own
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
        with CopyEngine(HostDevice(poison=True), OPTIONS) as engine:
            plan = make_plan(groups, chunk_bytes=CHUNK)
            with engine.submit(plan, sources, keep_alive=[memory]) as ticket:
                ticket.wait(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for source in sources:
            source.close()
    assert bytes(memory)[: shards * size] == DATA[: shards * size]


def test_reads_beside_a_close_either_come_or_say_that_it_is_closed(data_file):
    for _ in range(50):
        source = FileSource(data_file)
        start = threading.Barrier(3)
        errors = []

        def read(source=source, start=start, errors=errors):
            buffer = bytearray(1000)
            start.wait()
            try:
                assert source.read_into(0, memoryview(buffer)) == 1000
                assert bytes(buffer) == DATA[:1000]
            except StreamClosedError:
                pass
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        start.wait()
        source.close()
        for thread in threads:
            thread.join()
        assert not errors
