"""Where step k of a load fails: the typed error, every waiter awake, nothing left behind."""

from __future__ import annotations

import ctypes
import errno
import threading

import pytest

from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource, MemorySource
from streamload.errors import ChangedError, DeviceError, ShortReadError, SourceError, StreamClosedError
from streamload.options import StreamOptions

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
        assert engine._pool.native.leased == 0
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
        (lambda offset, buffer: -1, "read_into returned -1"),
        (lambda offset, buffer: None, "read_into returned None"),
        (lambda offset, buffer: 1 / 0, "ZeroDivisionError"),
        (lambda offset, buffer: (_ for _ in ()).throw(KeyboardInterrupt()), "KeyboardInterrupt"),
    ],
)
def test_a_source_that_breaks_its_contract_is_named(fault, words):
    error = run_to_failure(FailingSource(2, fault))
    assert type(error) is SourceError
    assert error.url == "test://weights"
    assert words in str(error)


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


@pytest.mark.parametrize("step", ["create_stream", "create_event", "record", "copy", "synchronize"])
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
    assert failures


@pytest.mark.parametrize("first_refused", range(4))
def test_memory_that_cannot_be_pinned_makes_a_load_slower_and_warns_once(first_refused, data_file, caplog):
    with FileSource(data_file) as source:
        for _ in range(2):
            caplog.clear()
            assert run_to_failure(source, HostDevice(fail_step="pin", fail_at=first_refused, fail_from=True)) is None
            refused = [record for record in caplog.records if "page-locked" in record.message]
            assert len(refused) == 1 or (first_refused and not refused)  # fewer buffers may have been enough


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


def test_every_caller_of_close_waits_for_the_threads(data_file, own_threads):
    memory = Memory()
    with FileSource(data_file) as source:
        engine = CopyEngine(HostDevice(link_bytes_per_second=NBYTES), OPTIONS)
        ticket = engine.submit(memory.plan, [source], keep_alive=[memory.bytes])
        seen = []

        def close():
            engine.close()
            seen.append(own_threads())

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [[]] * 4
        ticket.close()
