"""What lives how long: sources that hold their load, pools that end first, threads beside the program's own signals."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

import streamload
from streamload import StreamOptions
from streamload._engine import CopyEngine, ReadPool
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import MemorySource
from streamload.errors import SourceError, StreamClosedError

CHUNK = 64 << 10
NBYTES = 8 * CHUNK
OPTIONS = StreamOptions(chunk_bytes=CHUNK, staging_bytes=4 * CHUNK, read_threads=2)


class Source(MemorySource):
    """Serves zeros; holds on to whatever it is given."""

    def __init__(self, url="test://zeros") -> None:
        super().__init__(bytes(NBYTES), url=url)
        self.held: object = None


def submit(engine, source):
    memory = (ctypes.c_ubyte * NBYTES)()
    plan = make_plan([[Copy(0, 0, NBYTES, ctypes.addressof(memory))]], chunk_bytes=CHUNK)
    return engine.submit(plan, [source], keep_alive=[memory])


def test_a_source_that_holds_its_finished_load_is_collected():
    with CopyEngine(HostDevice(), OPTIONS) as engine:
        sources = [Source() for _ in range(5)]
        for source in sources:
            source.held = submit(engine, source)
            source.held.wait(30)
        gone = [weakref.ref(source) for source in sources]
        del sources, source
        until = time.monotonic() + 60
        while any(ref() is not None for ref in gone) and time.monotonic() < until:
            gc.collect()  # the last reading thread may still be on its way out
        assert [ref() for ref in gone] == [None] * 5


def test_a_pool_that_is_closed_under_a_load_ends_the_load():
    release = threading.Event()

    class Stalled(Source):
        def read_into(self, offset, buffer, /):
            release.wait(30)
            return super().read_into(offset, buffer)

    pool = ReadPool(OPTIONS)
    with CopyEngine(HostDevice(poison=True), OPTIONS, pool=pool) as engine:
        ticket = submit(engine, Stalled())
        closer = threading.Thread(target=pool.close)
        closer.start()
        with pytest.raises(StreamClosedError):
            ticket.wait(30)
        release.set()
        closer.join(30)
        assert not closer.is_alive()


def test_a_source_is_blamed_only_for_what_it_raised():
    class Raises(Source):
        def read_into(self, offset, buffer, /):
            raise KeyError("mine")

    with CopyEngine(HostDevice(), OPTIONS) as engine:
        ticket = submit(engine, Raises("test://broken"))
        for _ in range(2):
            with pytest.raises(SourceError, match="KeyError") as caught:
                ticket.wait(30)
            assert caught.value.url == "test://broken"
        cancelled = submit(engine, Raises("test://other"))
        cancelled.cancel()
        with pytest.raises((StreamClosedError, SourceError)) as first:
            cancelled.wait(30)
        with pytest.raises(type(first.value)):
            cancelled.wait(30)


def test_memory_that_was_short_is_asked_for_again_after_release():
    device = HostDevice(fail_step="pin", fail_at=2)
    with CopyEngine(device, OPTIONS) as engine:
        submit(engine, Source()).wait(30)
        few = engine.staging_bytes
        engine.release()
        submit(engine, Source()).wait(30)
        assert engine.staging_bytes >= few


def test_none_among_the_sources_is_a_type_error():
    with CopyEngine(HostDevice(), OPTIONS) as engine, pytest.raises(TypeError, match="None"):
        engine._native.submit(*[make_plan([], chunk_bytes=CHUNK).reads] * 4, 0, [None], None, None)


def test_engine_threads_take_no_signals():
    with CopyEngine(HostDevice(staged=True), OPTIONS) as engine:
        submit(engine, Source()).wait(30)
        masks = {}
        for task in Path("/proc/self/task").iterdir():
            fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            masks[fields["Name"].strip()] = int(fields["SigBlk"], 16)
        ours = {name: mask for name, mask in masks.items() if name.startswith("streamload")}
        assert ours
        assert all(mask >> (signal.SIGUSR1 - 1) & 1 for mask in ours.values()), ours


EXIT = """
import ctypes, sys, threading
sys.path.insert(0, {tests!r})
from test_engine_lifetimes import OPTIONS, CopyEngine, HostDevice, Source, submit
began = threading.Event()
class Closes(Source):
    def read_into(self, offset, buffer, /):
        {deed}
        began.set()
        for _ in range(3_000_000):  # is still here when the interpreter ends, and not for ever
            pass
        return super().read_into(offset, buffer)
engine = CopyEngine(HostDevice(), OPTIONS)
ticket = submit(engine, Closes())
began.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["engine.close()", "globals().__delitem__('engine')", "ticket.close()", "pass"])
def test_the_interpreter_ends_while_a_source_that_closed_its_own_engine_reads(deed):
    script = EXIT.format(tests=str(Path(__file__).parent), deed=deed)
    environment = {**os.environ, "PYTHONPATH": str(Path(streamload.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=100
    )
    assert done.returncode == 0, done.stderr
