"""Signals, interpreter exit, fork and garbage collection in the middle of a load: no hang, no crash, no residue."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap

import pytest

# A load of 1 MiB over a link that takes 60 ms, with everything a script below needs.
PRELUDE = """
import ctypes, gc, os, random, signal, sys, threading, time
from pathlib import Path
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload._plan import Copy, make_plan
from streamload._sources import FileSource, MemorySource
from streamload.errors import StreamClosedError
from streamload.options import StreamOptions

NBYTES, CHUNK = 1 << 20, 64 << 10
OPTIONS = StreamOptions(chunk_bytes=CHUNK, staging_bytes=4 * CHUNK, read_threads=2)
source = FileSource(sys.argv[1])
memory = (ctypes.c_ubyte * NBYTES)()
groups = [[Copy(0, i, i + CHUNK, ctypes.addressof(memory) + i)] for i in range(0, NBYTES, CHUNK)]
plan = make_plan(groups, chunk_bytes=CHUNK)

def device(seconds=0.06):
    return HostDevice(link_bytes_per_second=NBYTES / seconds, poison=True)

def start(engine, which=None):
    return engine.submit(plan, [which or source], keep_alive=[memory])

def native_threads():
    return [c for c in (p.read_text() for p in Path("/proc/self/task").glob("*/comm")) if c.startswith("streamload")]
"""


def run_script(body: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile() as weights:
        weights.write(os.urandom(1 << 20))
        weights.flush()
        command = [sys.executable, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(body), weights.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def expect(body: str, *, code: int = 0, words: str = "") -> str:
    done = run_script(body)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Fatal" not in done.stderr
    return done.stdout


INTERRUPT = """
class Stop(Exception):
    pass

def stop(*_):
    raise Stop

signal.signal(signal.SIGTERM, stop)
number = signal.{name}

engine = CopyEngine(device(), OPTIONS)
with start(engine) as ticket:
    ticket.wait()
files = len(os.listdir("/proc/self/fd"))
took = []
for turn in range(100):
    sent = []

    def send(after):
        time.sleep(after)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send, args=(random.Random(turn).uniform(0, 0.07),))
    try:
        sender.start()
        with start(engine) as ticket:
            {wait}
        ticket = None
        time.sleep(60)
    except (KeyboardInterrupt, Stop):
        took.append(time.monotonic() - sent[0])
    sender.join()
ticket = None
gc.collect()
assert len(took) == 100
assert engine._pool.native.leased == 0, engine._pool.native.leased
engine.close()
assert len(os.listdir("/proc/self/fd")) == files
assert not native_threads(), native_threads()
engine.close()
print(max(took))
"""


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["ticket.wait()", "[ticket.wait_group(g) for g in range(ticket.group_count)]"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_at_any_of_100_moments_returns_within_200_ms(name, wait):
    # The bound is the promise; a machine that stalls for longer than that by itself gets two more tries.
    slowest = []
    for _ in range(3):
        slowest.append(float(expect(INTERRUPT.format(name=name, wait=wait))))
        if slowest[-1] <= 0.2:
            break
    assert min(slowest) <= 0.2, slowest


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise RuntimeError('boom')", 1, "boom"),
        ("os._exit(4)", 4, ""),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15, ""),
        ("threading.Thread(target=ticket.wait, daemon=True).start()", 0, ""),
        ("[threading.Thread(target=ticket.wait_group, args=(15,), daemon=True).start() for _ in range(8)]", 0, ""),
        ("ticket.close(); engine.close(); ticket.close()", 0, ""),
        ("del engine", 0, ""),
    ],
)
def test_the_interpreter_may_end_at_any_time_during_a_load(ending, code, words):
    expect(f"engine = CopyEngine(device(3), OPTIONS); ticket = start(engine); ticket.wait_group(0)\n{ending}",
           code=code, words=words)  # fmt: skip


def test_the_interpreter_may_end_while_a_python_source_is_being_read():
    expect("""
        class Slow(MemorySource):
            def read_into(self, offset, buffer, /):
                begun.set()
                time.sleep(0.05)  # not to order anything: a read that is under way when the interpreter ends
                return super().read_into(offset, buffer)

        begun = threading.Event()
        engine = CopyEngine(device(3), OPTIONS)
        ticket = start(engine, Slow(bytes(NBYTES)))
        begun.wait()
        """)


def test_a_forked_child_neither_hangs_nor_touches_the_parents_load():
    expect("""
        engine = CopyEngine(device(), OPTIONS)
        ticket = start(engine)
        ticket.wait_group(0)
        child = os.fork()
        if child == 0:
            for use in (ticket.wait, lambda: ticket.wait_group(0), ticket.stats, lambda: start(engine)):
                try:
                    use()
                except StreamClosedError as error:
                    assert "forked child" in str(error), error
                else:
                    os._exit(9)
            ticket.cancel()
            ticket.close()
            engine.close()
            del ticket, engine
            gc.collect()
            fresh = CopyEngine(device(), OPTIONS)  # the child may load for itself
            start(fresh).wait()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        ticket.wait()  # the parent's goes on
        ticket.close()
        """)


def test_forks_at_random_moments_leave_parent_and_child_alive():
    expect("""
        engine = CopyEngine(device(), OPTIONS)
        for turn in range(30):
            ticket = start(engine)
            time.sleep(random.Random(turn).uniform(0, 0.07))  # random moments, ordering nothing
            child = os.fork()
            if child == 0:
                del ticket, engine
                sys.exit(0)
            ticket.wait()
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """)


def test_dropping_every_reference_during_a_load_is_harmless():
    out = expect("""
        for turn in range(30):
            engine = CopyEngine(device(3), OPTIONS)
            ticket = start(engine)
            ticket.wait_group(0)
            if turn % 3 == 0:
                del ticket, engine
            elif turn % 3 == 1:
                del engine, ticket
            else:
                cycle = [ticket, engine]
                cycle.append(cycle)
                del cycle, ticket, engine
            gc.collect()
            assert not native_threads(), native_threads()
        print("done")
        """)
    assert "done" in out


def test_memory_given_to_a_load_outlives_the_ticket_that_fills_it():
    expect("""
        class Owner:
            def __init__(self):
                self.memory = (ctypes.c_ubyte * NBYTES)()

            def __del__(self):
                assert not native_threads(), "freed while it is written to"
                print("freed")

        for turn in range(10):
            owner = Owner()
            base = ctypes.addressof(owner.memory)
            groups = [[Copy(0, i, i + CHUNK, base + i)] for i in range(0, NBYTES, CHUNK)]
            engine = CopyEngine(device(3), OPTIONS)
            ticket = engine.submit(make_plan(groups, chunk_bytes=CHUNK), [source], keep_alive=[owner])
            del owner
            ticket.wait_group(0)
            del ticket
            gc.collect()
        """, )  # fmt: skip
