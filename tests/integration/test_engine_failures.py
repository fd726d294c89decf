"""Where step k of a load fails: the typed error, every waiter awake, nothing left behind."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import threading
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from streamload._engine import ChunkTrace, CopyEngine, LoadStats, open_device, shared_engine
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource, MemorySource
from streamload.errors import ChangedError, DeviceError, ShortReadError, SourceError, StreamClosedError
from streamload.options import StreamOptions

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 64 << 10
GROUPS = 4
GROUP_BYTES = 3 * CHUNK - 100
NBYTES = GROUPS * GROUP_BYTES
DATA = bytes(range(256)) * (NBYTES // 256) + bytes(NBYTES % 256)
OPTIONS = StreamOptions(chunk_bytes=CHUNK, staging_bytes=4 * CHUNK, read_threads=2)


class Memory:
    """Destination memory and the plan that fills it."""

    def __init__(self) -> None:
        self.bytes = (ctypes.c_ubyte * NBYTES)()
        address = ctypes.addressof(self.bytes)
        starts = range(0, NBYTES, GROUP_BYTES)
        groups = [[Copy(0, start, start + GROUP_BYTES, address + start)] for start in starts]
        self.plan = make_plan(groups, chunk_bytes=CHUNK)

    def holds_data(self) -> bool:
        return bytes(self.bytes) == DATA


class FailingSource(MemorySource):
    """Serves DATA; call `at` of read_into does what `fault` says instead."""

    def __init__(self, at: int, fault) -> None:
        super().__init__(DATA, url="test://weights")
        self._at = at
        self._fault = fault
        self._calls = 0
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview, /) -> int:
        with self._lock:
            call, self._calls = self._calls, self._calls + 1
        return self._fault(offset, buffer) if call == self._at else super().read_into(offset, buffer)


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture(autouse=True)
def nothing_left(open_descriptors, own_threads):
    before = open_descriptors()
    yield
    assert open_descriptors() == before
    assert not own_threads()


def run_to_failure(source, device=None) -> BaseException | None:
    """Load with a waiter on each group; return the error, after checking that all waiters met the same one."""
    device = HostDevice(poison=True) if device is None else device
    memory = Memory()
    errors: list[BaseException | None] = []

    def waiter(ticket, group):
        try:
            ticket.wait_group(group)
            errors.append(None)
        except BaseException as error:
            errors.append(error)

    failure: BaseException | None = None
    with CopyEngine(device, OPTIONS) as engine:
        try:
            ticket = engine.submit(memory.plan, [source], keep_alive=[memory.bytes])
        except (DeviceError, SourceError) as error:
            return error
        threads = [threading.Thread(target=waiter, args=(ticket, group)) for group in range(GROUPS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a waiter did not wake"
        try:
            ticket.wait(30)
            assert memory.holds_data()
        except (DeviceError, SourceError, StreamClosedError) as error:
            failure = error
        if failure is not None:
            assert ticket.failed
            assert ticket.done
            assert all(error is None or type(error) is type(failure) for error in errors)
            with pytest.raises(type(failure)):  # everyone after the first, too
                ticket.wait_group(0)
        ticket.close()
        ticket.close()
        assert engine._native.leased == 0
    assert device.live_objects == 0
    return failure


@pytest.mark.parametrize("k", range(GROUPS * 3))
def test_a_source_that_raises_at_any_read_gives_its_error_with_the_place(k):
    def fault(offset, buffer):
        raise OSError(errno.EIO, "the disk is on fire")

    error = run_to_failure(FailingSource(k, fault))
    assert type(error) is SourceError
    assert error.url == "test://weights"
    assert error.errno == errno.EIO
    assert error.offset is not None
    assert 0 < error.nbytes <= CHUNK
    assert "the disk is on fire" in str(error)
    assert f"offset {error.offset}" in str(error)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.parametrize("k", range(GROUPS * 3))
def test_a_source_that_ends_early_at_any_read_is_a_short_read(k):
    error = run_to_failure(FailingSource(k, lambda offset, buffer: 0))
    assert type(error) is ShortReadError
    assert "got 0 of" in str(error)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda offset, buffer: len(buffer) + 1, "claims"),
        (lambda offset, buffer: -1, "read_into"),
        (lambda offset, buffer: None, "read_into"),
        (lambda offset, buffer: 1 / 0, "ZeroDivisionError"),
        (lambda offset, buffer: (_ for _ in ()).throw(KeyboardInterrupt()), "KeyboardInterrupt"),
    ],
)
def test_a_source_that_breaks_its_contract_is_named(fault, words):
    error = run_to_failure(FailingSource(2, fault))
    assert type(error) is SourceError
    assert error.url == "test://weights"
    assert words in str(error) or words == "read_into"


def test_a_sources_own_typed_error_arrives_as_it_is():
    def fault(offset, buffer):
        raise ChangedError("the object has another ETag", url="test://weights", offset=offset)

    error = run_to_failure(FailingSource(1, fault))
    assert type(error) is ChangedError
    assert str(error) == "the object has another ETag"


def test_a_view_kept_by_a_source_is_dead_after_its_call():
    kept: list[memoryview] = []

    def fault(offset, buffer):
        kept.append(buffer)
        return MemorySource(DATA).read_into(offset, buffer)

    assert run_to_failure(FailingSource(0, fault)) is None
    with pytest.raises(ValueError, match="released"):
        kept[0][0] = 1


@pytest.mark.parametrize("step", ["create_stream", "create_event", "record", "copy", "synchronize", "pin"])
def test_any_device_step_that_fails_ends_the_load_in_a_device_error(step, data_file):
    failures = 0
    for k in range(40):
        with FileSource(data_file) as source:
            error = run_to_failure(source, HostDevice(fail_step=step, fail_at=k))
        failures += error is not None
        if error is not None:
            assert type(error) is DeviceError
            assert step in str(error)
            assert "on request" in str(error)
    # One buffer that cannot be pinned is one buffer fewer, unless it is the only one under way.
    assert failures or step == "pin"


def test_out_of_pinned_memory_from_the_start_is_a_device_error(data_file):
    with FileSource(data_file) as source:
        error = run_to_failure(source, HostDevice(fail_step="pin", fail_from=True))
        assert type(error) is DeviceError
        # With two buffers pinned the load goes on with those.
        assert run_to_failure(source, HostDevice(fail_step="pin", fail_at=2, fail_from=True)) is None


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


def test_a_timeout_leaves_the_load_running(data_file):
    memory = Memory()
    with FileSource(data_file) as source, CopyEngine(HostDevice(link_bytes_per_second=1000), OPTIONS) as engine:
        ticket = engine.submit(memory.plan, [source], keep_alive=[memory.bytes])
        with pytest.raises(TimeoutError):
            ticket.wait(0.01)
        assert not ticket.done
        ticket.cancel()
        with pytest.raises(StreamClosedError):
            ticket.wait()
        ticket.close()


def test_closing_twice_and_using_after_close(data_file):
    memory = Memory()
    with FileSource(data_file) as source:
        engine = CopyEngine(HostDevice(), OPTIONS)
        ticket = engine.submit(memory.plan, [source], keep_alive=[memory.bytes])
        ticket.wait(30)
        engine.close()
        engine.close()
        assert engine.closed
        with pytest.raises(StreamClosedError):
            engine.submit(memory.plan, [source])
        ticket.wait()  # it had finished
        assert memory.holds_data()
        ticket.close()


@pytest.mark.parametrize("name", ["", "gpu", "cpu:1", "cuda:x", "cuda:-1", "mps", "cuda:0:1"])
def test_a_device_of_no_known_form_is_a_value_error(name):
    with pytest.raises(ValueError, match="device must be"):
        open_device(name)


def test_a_cuda_device_that_does_not_exist_is_a_device_error():
    with pytest.raises(DeviceError, match=r"cuda:99|no CUDA driver"):
        open_device("cuda:99")


def test_loads_of_a_process_share_an_engine_that_ends_with_its_last_user():
    first = shared_engine("cpu", OPTIONS)
    assert shared_engine("cpu", OPTIONS) is first
    assert shared_engine("cpu", StreamOptions()) is not first
    identity = id(first._native)
    first.close()
    again = shared_engine("cpu", OPTIONS)
    assert again is not first
    assert not again.closed
    del first, identity


def test_memory_sources_load_like_files():
    assert run_to_failure(MemorySource(DATA)) is None


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


def test_a_source_that_closes_its_own_load_cancels_it():
    tickets = []

    def fault(offset, buffer):
        handed_over.wait(30)
        tickets.pop().close()  # the last reference, too
        return MemorySource(DATA).read_into(offset, buffer)

    handed_over = threading.Event()
    memory = Memory()
    with CopyEngine(HostDevice(poison=True), OPTIONS) as engine:
        ticket = engine.submit(memory.plan, [FailingSource(0, fault)], keep_alive=[memory.bytes])
        tickets.append(ticket)
        handed_over.set()
        with pytest.raises(StreamClosedError):
            ticket.wait(30)


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


@pytest.mark.parametrize(
    "part", [lambda view: view[10:20], memoryview, lambda view: (ctypes.c_ubyte * 8).from_buffer(view)]
)
def test_a_source_that_keeps_a_part_of_its_buffer_is_refused(part):
    kept = []

    def fault(offset, buffer):
        kept.append(part(buffer))
        return MemorySource(DATA).read_into(offset, buffer)

    error = run_to_failure(FailingSource(1, fault))
    assert type(error) is SourceError
    assert "kept a part of the buffer" in str(error)
