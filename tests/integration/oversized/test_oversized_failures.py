"""What goes wrong while weights are streamed reaches whoever uses them, and holds nothing for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import streamload
from streamload._checkpoint import Checkpoint
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload._verify import make_manifest
from streamload.errors import ChangedError, ChecksumError, DeviceError, StreamClosedError
from streamload.testing import FaultySource
from streamload.torch import stream_module

from .shared import Stack, ids, on_meta, options, run, streamed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]


@pytest.fixture
def faulty(stack):
    """A function that streams the stack from a source that fails as told: the module, its stream, the source."""
    _, path, least = stack
    with ExitStack() as closing:

        def make(**faults: object):
            module = on_meta(Stack)
            opened = closing.enter_context(streamload.open(path))
            (shard,) = opened.shards
            source = FaultySource(shard.source, **faults)
            checkpoint = Checkpoint(opened.url, [replace(shard, source=source)], dict(opened))
            engine = CopyEngine(HostDevice(poison=True, staged=True), options(least))
            loading = closing.enter_context(stream_module(module, checkpoint, "cpu", engine=engine))
            return module, loading, source

        yield make


def passes(module, count):
    for _ in range(count):
        run(module, ids())


def test_a_failed_read_reaches_the_use_and_all_later_ones(stack, faulty):
    module, loading, source = faulty()
    run(module, ids())
    loading.wait(60)
    steps = len(source.reads)
    uses = (
        lambda module: run(module, ids()),
        lambda module: module.state_dict(),
        lambda module: module.layers[1](torch.ones(1, 48)),
        lambda module: module.layers[4].up.weight.sum(),
    )
    streamed_steps = 0
    for step in range(steps):
        module, loading, _ = faulty(fail={step: OSError(5, "the disk said no")})
        with pytest.raises(OSError, match="the disk said no"):
            passes(module, 3)
        if loading._streamed()._error is None:  # it was what stays resident that failed
            continue
        streamed_steps += 1
        for use in uses:
            with torch.no_grad(), pytest.raises(OSError, match="the disk said no"):
                use(module)
    assert streamed_steps >= 7  # at least each streamed unit once


def test_an_exception_in_a_block_lets_go_of_its_unit(stack, hostile):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    for number in range(len(module.layers)):
        handle = module.layers[number].up.register_forward_hook(lambda *args: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run(module, ids())
        handle.remove()
        assert not any(hostile[0].holders)
        assert torch.equal(run(module, ids()), run(reference, ids()))
    loading.close()


class Interrupting(threading.Event):
    """What a held read waits for: it interrupts the main thread first, which will wait for that read."""

    def __init__(self):
        super().__init__()
        self.running = threading.Event()

    def wait(self, timeout=None):
        self.running.wait()
        os.kill(os.getpid(), signal.SIGINT)
        return super().wait(timeout)


@pytest.mark.parametrize("where", ["forward", "acquire"])
def test_an_interrupt_lets_go_of_its_unit(stack, faulty, where):
    reference, _, _ = stack
    held = Interrupting()
    module, loading, _ = faulty(hold={5: held} if where == "acquire" else {})
    if where == "forward":
        module.layers[2].up.register_forward_hook(lambda *args: signal.raise_signal(signal.SIGINT))

    def interrupted():
        held.running.set()
        passes(module, 2)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    held.set()
    module.layers[2].up._forward_hooks.clear()
    for _ in range(2):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    assert not loading._streamed()._held


def test_a_file_replaced_meanwhile_is_a_changed_error(stack):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    run(module, ids())
    loading.wait(60)
    data = path.read_bytes()
    path.write_bytes(data[:-64] + bytes(64))
    with pytest.raises(ChangedError):
        passes(module, 3)
    for use in (lambda: run(module, ids()), module.state_dict):
        with pytest.raises(ChangedError):
            use()
    loading.close()


def test_a_copy_outside_of_a_changed_file_is_refused(stack):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    loading.wait(60)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChangedError):
        module.layers[3].up.weight.sum()
    loading.close()


def test_wrong_bytes_are_named_where_they_are_used(stack):
    reference, path, least = stack
    make_manifest(str(path))
    module = on_meta(Stack)
    loading = streamed(module, path, least, verify=True)
    for _ in range(2):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    assert torch.equal(module.layers[2].up.weight.detach(), reference.layers[2].up.weight)
    loading.close()
    times = path.stat()
    with streamload.open(path) as checkpoint:
        info = checkpoint["layers.2.up.weight"]
    data = bytearray(path.read_bytes())
    data[info.start + 5] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    module = on_meta(Stack)
    loading = streamed(module, path, least, verify=True)
    with pytest.raises(ChecksumError, match=r"layers\.2\.up\.weight"):
        run(module, ids())
    with pytest.raises(ChecksumError, match=r"layers\.2\.up\.weight"):
        module.layers[2].up.weight.sum()
    loading.close()


def test_closing_wakes_a_pass_in_another_thread(faulty):
    released = threading.Event()
    module, loading, _ = faulty(hold={4: released})
    raised = []
    waiting = threading.Event()
    module.layers[1].register_forward_pre_hook(lambda *args: waiting.set())

    def until_closed():
        try:
            passes(module, 3)
        except StreamClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=until_closed)
    thread.start()
    waiting.wait(5)
    loading.cancel()
    released.set()
    thread.join(60)
    assert not thread.is_alive()
    assert len(raised) == 1
    loading.close()


def test_a_forked_child_is_refused(stack):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    run(module, ids())
    loading.wait(60)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            module(ids())
        except StreamClosedError:
            code = 0
        except BaseException:
            code = 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(run(module, ids()), run(reference, ids()))
    loading.close()


def test_an_interpreter_that_ends_in_the_middle_ends(stack, tmp_path):
    _, path, least = stack
    script = tmp_path / "end.py"
    script.write_text(
        f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from oversized.shared import Stack, ids, on_meta, run, streamed
from streamload._native import HostDevice
module = on_meta(Stack)
# A slow link: the thread waits nearly all the while. Within torch's own calls the end of Python ends the process.
device = HostDevice(staged=True, link_bytes_per_second={path.stat().st_size / 0.7})
loading = streamed(module, {str(path)!r}, {least}, device=device, host_memory=1 << 20)
run(module, ids())
threading.Thread(target=lambda: [run(module, ids()) for _ in range(10**6)], daemon=True).start()
run(module, ids())
print("end")
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_that_fails_while_units_pass_says_so(stack):
    _, path, least = stack
    module = on_meta(Stack)
    device = HostDevice(staged=True, fail_step="copy", fail_at=40, fail_from=True)
    loading = streamed(module, path, least, device=device)
    with pytest.raises(DeviceError):
        passes(module, 20)
    with pytest.raises(DeviceError):
        run(module, ids())
    loading.close()
