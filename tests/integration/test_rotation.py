"""Rotations through the wrapper: right values, typed errors, signals, forks, the end, and bytes that are counted."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
from array import array
from pathlib import Path

import pytest

from streamload._engine import CopyEngine, RotationStats
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource, MemorySource
from streamload.errors import ChangedError, ShortReadError, SourceError, StreamClosedError
from streamload.options import StreamOptions

UNIT = 192 << 10
UNITS = 6
OPTIONS = StreamOptions(chunk_bytes=64 << 10, staging_bytes=512 << 10, read_threads=2)
PATIENCE = 60  # seconds; only a hang takes this long


class Turn:
    """A rotation of `UNITS` units over slots of host memory, and the bytes they should hold."""

    def __init__(self, engine, source, weights, *, slots=2, order=None, debug=False):
        self.memory = [ctypes.create_string_buffer(UNIT) for _ in range(slots)]
        self.slot_of = [unit % slots for unit in range(UNITS)]
        self.weights = weights
        addresses = [ctypes.addressof(memory) for memory in self.memory]
        plans = [
            make_plan(
                [[Copy(0, unit * UNIT, (unit + 1) * UNIT, addresses[self.slot_of[unit]])]],
                chunk_bytes=OPTIONS.chunk_bytes,
            )
            for unit in range(UNITS)
        ]
        with FileSource(source) if isinstance(source, Path) else contextlib.nullcontext(source) as opened:
            self.rotation = engine.rotate(
                plans,
                [opened],
                slot_of=self.slot_of,
                slots=[(address, UNIT) for address in addresses],
                order=range(UNITS) if order is None else order,
                keep_alive=self.memory,
                debug=debug,
            )

    def expected(self, unit):
        return self.weights[unit * UNIT : (unit + 1) * UNIT]

    def use(self, unit):
        self.rotation.acquire(unit, stream=None)
        try:
            return self.memory[self.slot_of[unit]].raw == self.expected(unit)
        finally:
            self.rotation.release(unit, stream=None)


@pytest.fixture
def weights():
    return os.urandom(UNITS * UNIT)


@pytest.fixture
def path(tmp_path, weights):
    path = tmp_path / "weights"
    path.write_bytes(weights)
    return path


@pytest.fixture(params=["plain", "staged"])
def engine(request):
    device = HostDevice() if request.param == "plain" else HostDevice(staged=True, poison=True, seed=5)
    with CopyEngine(device, OPTIONS) as engine:
        yield engine
    if request.param == "staged":
        assert device.live_objects == 0


def settle(rotation, fills):
    """Let prefetching come to its end: until that many fills are complete."""
    pause = threading.Event()
    while rotation.stats().fills != fills:
        pause.wait(0.005)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("slots", [1, 2, 3, UNITS])
def test_every_unit_is_right_in_every_pass(engine, path, weights, slots, debug):
    turn = Turn(engine, path, weights, slots=slots, debug=debug)
    with turn.rotation as rotation:
        assert rotation.unit_count == UNITS
        for _ in range(3):
            rotation.begin_pass()
            assert all(turn.use(unit) for unit in range(UNITS))
        stats = rotation.stats()
    assert (stats.units, stats.slots, stats.passes, stats.demanded_fills) == (UNITS, slots, 3, 0)


def test_bytes_streamed_are_what_the_passes_need(engine, path, weights):
    turn = Turn(engine, path, weights, slots=2)
    for _ in range(4):
        assert all(turn.use(unit) for unit in range(UNITS))
    settle(turn.rotation, 4 * UNITS + 2)  # and the first two of the next pass, which leave no slot free
    turn.rotation.close()
    stats = turn.rotation.stats()
    assert stats.bytes_streamed == stats.bytes_read == (4 * UNITS + 2) * UNIT
    assert (stats.bytes_from_host, stats.wasted_fills, stats.demanded_fills) == (0, 0, 0)


def test_what_fits_is_streamed_once(engine, path, weights):
    turn = Turn(engine, path, weights, slots=UNITS)
    for _ in range(4):
        assert all(turn.use(unit) for unit in range(UNITS))
    stats = turn.rotation.stats()
    assert (stats.fills, stats.bytes_streamed) == (UNITS, UNITS * UNIT)


def test_units_out_of_order_are_fetched_on_demand(engine, path, weights):
    turn = Turn(engine, path, weights, order=[])
    assert all(turn.use(unit) for unit in (3, 3, 1, 5, 0, 2, 4))
    assert turn.rotation.stats().demanded_fills == 6
    turn.rotation.set_order([0, 2, 4])
    assert all(turn.use(unit) for unit in (0, 2, 4, 1, 0, 2, 4))


def test_units_kept_on_the_host_come_from_there(engine, path, weights):
    turn = Turn(engine, path, weights, order=[])
    memory = ctypes.create_string_buffer(weights[UNIT : 2 * UNIT], UNIT)
    target = ctypes.addressof(turn.memory[turn.slot_of[1]])
    turn.rotation.keep_on_host(1, array("Q", [ctypes.addressof(memory), target, UNIT]), memory)
    assert all(turn.use(unit) for unit in (1, 3, 1))
    stats = turn.rotation.stats()
    assert (stats.bytes_from_host, stats.bytes_read, stats.bytes_streamed) == (2 * UNIT, UNIT, 3 * UNIT)
    with pytest.raises(ValueError, match="outside its slot"):
        turn.rotation.keep_on_host(0, array("Q", [ctypes.addressof(memory), target, UNIT]), memory)


def test_the_owner_of_host_memory_is_kept_until_the_rotation_is_closed(engine, path, weights):
    class Owner:
        def __del__(self):
            freed.append(True)

    freed = []
    turn = Turn(engine, path, weights, order=[])
    turn.rotation.keep_on_host(0, array("Q"), Owner())
    turn.rotation.keep_on_host(0, array("Q"), None)  # replaced, but a fill may be reading it
    assert not freed
    turn.rotation.close()
    assert freed


def test_misuse_is_a_runtime_error_that_says_which(engine, path, weights):
    turn = Turn(engine, path, weights)
    rotation = turn.rotation
    with pytest.raises(RuntimeError, match="not held"):
        rotation.release(0, stream=None)
    rotation.acquire(0, stream=None)
    rotation.acquire(0, stream=None)
    with pytest.raises(RuntimeError, match="nested"):
        rotation.acquire(1, stream=None)
    rotation.release(0, stream=None)
    rotation.release(0, stream=None)
    with pytest.raises(ValueError, match="no unit 6"):
        rotation.acquire(UNITS, stream=None)
    with pytest.raises(ValueError, match="order"):
        rotation.set_order([UNITS])


def test_plans_that_do_not_fit_are_refused(engine, path, weights):
    with pytest.raises(ValueError, match="order"):
        Turn(engine, path, weights, order=[UNITS])
    plan = make_plan([[Copy(0, 0, 8, 64)], [Copy(0, 8, 16, 72)]], chunk_bytes=OPTIONS.chunk_bytes)
    with pytest.raises(ValueError, match="one group"), FileSource(path) as source:
        engine.rotate([plan], [source], slot_of=[0], slots=[(64, 64)], order=[0])


def test_a_file_that_shrinks_or_changes_is_a_typed_error(engine, path, weights, tmp_path):
    turn = Turn(engine, path, weights)
    assert all(turn.use(unit) for unit in range(UNITS))
    (tmp_path / "other").write_bytes(weights)
    (tmp_path / "other").replace(path)
    with pytest.raises(ChangedError) as raised:
        all(turn.use(unit) for _ in range(1000) for unit in range(UNITS))
    assert raised.value.url == str(path)
    with pytest.raises(ChangedError):  # and for everybody after
        turn.rotation.acquire(0, stream=None)

    turn = Turn(engine, path, weights, order=[])
    os.truncate(path, UNIT)
    with pytest.raises((ShortReadError, ChangedError)):
        turn.use(3)


def test_what_a_python_source_raises_is_the_cause(engine, weights):
    class Broken(MemorySource):
        def read_into(self, offset, buffer, /):
            raise KeyError("no such thing")

    turn = Turn(engine, Broken(weights), weights)
    with pytest.raises(SourceError) as raised:
        turn.use(0)
    assert isinstance(raised.value.__cause__, KeyError)


def test_close_wakes_who_waits_and_ends_the_threads(path, weights, own_threads):
    with CopyEngine(HostDevice(link_bytes_per_second=1), OPTIONS) as engine:  # a unit takes half a day
        turn = Turn(engine, path, weights)
        errors = []

        def wait(unit):
            try:
                turn.rotation.acquire(unit, stream=None)
            except StreamClosedError as error:
                errors.append(error)

        threads = [threading.Thread(target=wait, args=(unit,)) for unit in range(4)]
        for thread in threads:
            thread.start()
        turn.rotation.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(errors) == 4
        turn.rotation.close()
        with pytest.raises(StreamClosedError):
            turn.rotation.acquire(0, stream=None)
    assert own_threads() == []


def test_an_engine_that_closes_ends_its_rotations(path, weights):
    engine = CopyEngine(HostDevice(), OPTIONS)
    turn = Turn(engine, path, weights)
    engine.close()
    with pytest.raises(StreamClosedError):
        turn.rotation.acquire(0, stream=None)
    with pytest.raises(StreamClosedError):
        Turn(engine, path, weights)


def test_a_keyboard_interrupt_ends_the_wait_and_leaves_the_rotation_in_use(engine, weights):
    go_on = threading.Event()

    class Interrupting(MemorySource):
        def read_into(self, offset, buffer, /):
            if not go_on.is_set():
                os.kill(os.getpid(), signal.SIGINT)  # the main thread waits for this very read
                go_on.wait(PATIENCE)
            return super().read_into(offset, buffer)

    turn = Turn(engine, Interrupting(weights), weights, order=[])
    with pytest.raises(KeyboardInterrupt):
        turn.rotation.acquire(0, stream=None)
    go_on.set()
    assert all(turn.use(unit) for unit in (0, 2, 0))


def test_stats_have_the_names_of_the_native_ones(engine, path, weights):
    native = Turn(engine, path, weights).rotation._native.stats()
    assert list(native) == [field.name for field in dataclasses.fields(RotationStats)]


SCRIPT = """
import ctypes, gc, os, sys, threading
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource
from streamload.errors import StreamClosedError
from streamload.options import StreamOptions

memory = ctypes.create_string_buffer(1 << 18)
base = ctypes.addressof(memory)
plans = [make_plan([[Copy(0, i << 18, (i + 1) << 18, base)]], chunk_bytes=1 << 16) for i in range(4)]

def rotate(engine):
    return engine.rotate(
        plans, [FileSource(sys.argv[1])], slot_of=[0] * 4, slots=[(base, 1 << 18)], order=range(4), keep_alive=[memory]
    )

def use(rotation, unit):
    rotation.acquire(unit, stream=None)
    rotation.release(unit, stream=None)

def engine_over(seconds):
    device = HostDevice(link_bytes_per_second=(1 << 18) / seconds)
    return CopyEngine(device, StreamOptions(chunk_bytes=1 << 16, staging_bytes=1 << 18, read_threads=2))
"""


def run(tmp_path, body):
    path = tmp_path / "weights"
    path.write_bytes(bytes(4 << 18))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT + textwrap.dedent(body), path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Fatal" not in done.stderr
    return done


@pytest.mark.slow
def test_a_forked_child_neither_hangs_nor_touches_the_parents_rotation(tmp_path):
    done = run(
        tmp_path,
        """
        engine = engine_over(0.001)
        rotation = rotate(engine)
        use(rotation, 0)
        child = os.fork()
        if child == 0:
            for call in (lambda: use(rotation, 1), rotation.stats, rotation.begin_pass, lambda: rotate(engine)):
                try:
                    call()
                except StreamClosedError as error:
                    assert "forked child" in str(error), error
                else:
                    os._exit(9)
            rotation.cancel()
            rotation.close()
            engine.close()
            del rotation, engine
            gc.collect()
            fresh = rotate(engine_over(0.001))  # the child may have its own
            use(fresh, 2)
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        for unit in (1, 2, 3, 0):
            use(rotation, unit)  # the parent's goes on
        """,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "rotation.close(); engine.close(); rotation.close()",
        "del engine",
        "del rotation, engine; gc.collect()",
        "[threading.Thread(target=use, args=(rotation, 3), daemon=True).start() for _ in range(4)]",
    ],
)
def test_the_interpreter_may_end_at_any_time_during_a_rotation(tmp_path, ending):
    done = run(tmp_path, f"engine = engine_over(0.05)\nrotation = rotate(engine)\nuse(rotation, 0)\n{ending}")
    assert (done.returncode, done.stderr) == (0, "")
