"""A load that fails, is cut off or outlives its owner: every waiter gets a typed error, nothing hangs or is left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import pytest
import torch

import streamload
from streamload._checkpoint import Checkpoint
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.errors import ChangedError, DeviceError, ShortReadError, SourceError, StreamClosedError
from streamload.testing import FaultySource
from streamload.torch import iter_tensors, load_file, stream, stream_module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

IDS = torch.arange(24).view(2, 12)
SMALL = streamload.StreamOptions(chunk_bytes=64 << 10, staging_bytes=256 << 10, read_threads=2)
STEPS = ("copy", "record", "create_event", "create_stream", "pin", "wait", "query", "synchronize")


def is_arriving(tensor):
    return type(tensor).__name__.startswith("Arriving")


def with_source(checkpoint, wrap):
    """The checkpoint with its one source wrapped."""
    (shard,) = checkpoint.shards
    return Checkpoint(checkpoint.url, [replace(shard, source=wrap(shard.source))], dict(checkpoint))


def assert_unusable(module, error):
    """Every use raises the error, from any thread, and no parameter is given away."""
    raised = []

    def use():
        try:
            module(IDS)
        except Exception as got:
            raised.append(got)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for attempt in (lambda: module.state_dict(), lambda: module.norm.weight.sum(), lambda: module.embed.weight.data):
        with pytest.raises(error):
            attempt()
    assert [type(got) for got in raised] == [error] * 3
    assert all(is_arriving(tensor) for tensor in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("at", range(3))
def test_a_device_that_fails_at_step_k_fails_every_use_or_nothing(step, at, build, reference, model_path, own_threads):
    device = HostDevice(fail_step=step, fail_at=at, fail_from=True, poison=True)
    module = build("meta")
    with CopyEngine(device, SMALL) as engine, streamload.open(model_path) as checkpoint:
        try:
            loading = stream_module(module, checkpoint, "cpu", engine=engine)
        except DeviceError:
            assert all(parameter.is_meta for parameter in module.parameters())
            return
        try:
            loading.wait(60)
        except DeviceError:
            assert_unusable(module, DeviceError)
        else:
            assert torch.equal(module(IDS), reference(IDS))
        loading.close()
    assert not own_threads()


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("kind", ["error", "short"])
def test_a_read_that_fails_says_where_and_fails_every_use(at, kind, build, model_path, own_threads):
    fault = {"fail": {at: OSError(5, "broken")}} if kind == "error" else {"short": dict.fromkeys(range(at, 99), 0)}
    module = build("meta")
    with CopyEngine(HostDevice(poison=True), SMALL) as engine, streamload.open(model_path) as opened:
        checkpoint = with_source(opened, lambda source: FaultySource(source, **fault))
        loading = stream_module(module, checkpoint, "cpu", engine=engine)
        with pytest.raises(SourceError if kind == "error" else ShortReadError) as caught:
            loading.wait(60)
        assert caught.value.url == str(model_path)
        assert caught.value.offset is not None
        assert caught.value.nbytes
        assert_unusable(module, type(caught.value))
    assert not own_threads()


def test_waiters_of_a_failing_load_all_wake(build, model_path):
    held = threading.Event()
    module = build("meta")
    raised = []

    def use(name):
        try:
            module.get_parameter(name).sum()
        except SourceError as error:
            raised.append(error.offset)

    with CopyEngine(HostDevice(), SMALL) as engine, streamload.open(model_path) as opened:
        # Every read fails: a tensor whose own reads have come may be used until the load is known to have failed.
        fault = {"fail": dict.fromkeys(range(9), OSError(5, "broken")), "hold": dict.fromkeys(range(9), held)}
        checkpoint = with_source(opened, lambda source: FaultySource(source, **fault))
        loading = stream_module(module, checkpoint, "cpu", engine=engine)
        names = ["norm.weight", "embed.weight", "rnn.weight_ih_l0"]
        threads = [threading.Thread(target=use, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        held.set()
        for thread in threads:
            thread.join(60)
        assert len(raised) == 3
        loading.close()


def test_a_truncated_file_is_a_typed_error_not_a_signal(build, model_path):
    module = build("meta")
    with streamload.open(model_path) as checkpoint:
        os.truncate(model_path, model_path.stat().st_size - 4096)
        try:
            loading = stream_module(module, checkpoint, "cpu")
        except ChangedError:
            return
        with pytest.raises((ChangedError, ShortReadError)):
            loading.wait(60)


def test_a_failed_submit_leaves_the_module_as_it_was(build, model_path, slow_engine):
    module = build("meta")
    slow_engine.close()
    with streamload.open(model_path) as checkpoint, pytest.raises(StreamClosedError):
        stream_module(module, checkpoint, "cpu", engine=slow_engine)
    assert all(parameter.is_meta for parameter in module.parameters())


def test_a_failing_feed_raises_from_next_and_leaves_nothing(model_path, open_descriptors):
    before = open_descriptors()
    with CopyEngine(HostDevice(), SMALL) as engine, streamload.open(model_path) as opened:
        source = FaultySource(opened.shards[0].source, fail={2: OSError(5, "broken")})
        checkpoint = with_source(opened, lambda _: source)
        with pytest.raises(SourceError, match="broken"):
            list(iter_tensors(checkpoint, engine=engine))
        source = FaultySource(opened.shards[0].source, fail={2: OSError(5, "broken")})
        with (
            pytest.raises(SourceError, match="broken"),
            stream(with_source(opened, lambda _: source), "cpu", engine=engine) as layers,
        ):
            list(layers)
    assert open_descriptors() == before


def test_loads_leave_no_descriptor_and_no_thread(build, model_path, own_threads, open_descriptors):
    load_file(model_path)
    before = open_descriptors()
    for _ in range(3):
        module = build("meta")
        with streamload.open(model_path) as checkpoint:
            stream_module(module, checkpoint, "cpu").wait(60)
            list(iter_tensors(checkpoint))
        list(iter_tensors(model_path))
        next(iter_tensors(model_path))
    assert open_descriptors() == before
    assert not own_threads()


PROLOGUE = """
    import gc, os, signal, sys, threading
    import torch, streamload
    from streamload._engine import CopyEngine
    from streamload._native import HostDevice
    from streamload.errors import StreamClosedError
    from streamload.torch import iter_tensors, stream, stream_module

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    engine = CopyEngine(HostDevice(link_bytes_per_second=5e3, poison=True))
    with torch.device("meta"):
        module = torch.nn.Linear(64, 64)
    torch_file = sys.argv[1]
    checkpoint = streamload.open(torch_file)
"""

ENDINGS = {
    "exit in flight": "loading = stream_module(module, checkpoint, 'cpu', engine=engine)",
    "exit without handle": "stream_module(module, checkpoint, 'cpu', engine=engine)",
    "exit with a closed engine": "stream_module(module, checkpoint, 'cpu', engine=engine); engine.close()",
    "exit with daemon threads waiting": """
loading = stream_module(module, checkpoint, 'cpu', engine=engine)
for _ in range(8):
    threading.Thread(target=lambda: module.weight.sum(), daemon=True).start()
while loading.stats().stall_seconds < 1:  # summed over the threads: all eight have begun to wait
    pass
""",
    "exit in a layer stream": """
layers = stream(checkpoint, 'cpu', engine=engine)
threading.Timer(0.1, interrupt).start()
try:
    list(layers)
except KeyboardInterrupt:
    sys.exit(0)
""",
    "collect in flight": "loading = stream_module(module, checkpoint, 'cpu', engine=engine)\n"
    "del loading, module, engine, checkpoint\ngc.collect()",
    "system exit": "stream_module(module, checkpoint, 'cpu', engine=engine); sys.exit(0)",
    "ctrl-c": """
stream_module(module, checkpoint, 'cpu', engine=engine)
threading.Timer(0.1, interrupt).start()
try:
    module.weight.sum()
except KeyboardInterrupt:
    print("interrupted")
""",
    "fork": """
loading = stream_module(module, checkpoint, 'cpu', engine=engine)
child = os.fork()
if child == 0:
    codes = []
    for use in (module.weight.sum, loading.wait, lambda: module(torch.ones(64)), module.state_dict):
        try:
            use()
        except StreamClosedError:
            codes.append(0)
    os._exit(0 if codes == [0] * 4 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
    "fork and ordinary exit": """
stream_module(module, checkpoint, 'cpu', engine=engine)
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_process_ends_in_flight_without_hang_or_crash(ending, tmp_path):
    path = tmp_path / "linear.safetensors"
    streamload.torch.save_file({"weight": torch.ones(64, 64), "bias": torch.ones(64)}, path)
    script = textwrap.dedent(PROLOGUE) + textwrap.dedent(ending)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c", script, path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
