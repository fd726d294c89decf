"""A load that is cut off, anywhere: its own error, at the call or at the first use; nothing is left, no NaN is seen."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from streamload._checkpoint import Checkpoint  # noqa: E402 - after the skips
from streamload._lazy import _tensor  # noqa: E402 - after the skips
from streamload.errors import SourceError, StreamClosedError  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.testing import FaultySource  # noqa: E402 - after the skips
from streamload.transformers import _adopt, _patch, patch  # noqa: E402 - after the skips
from streamload.transformers._scope import current_scope  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

pytestmark = pytest.mark.slow

Llama = transformers.LlamaForCausalLM
DEBUG = StreamOptions(debug=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny") / "float32"
    torch.manual_seed(0)
    Llama(tiny.config()).save_pretrained(directory, max_shard_size="40KB")
    return directory


@pytest.fixture
def nothing_left(open_descriptors):
    """A function that says that no file, scope or model being loaded is left."""
    gc.collect()
    before, threads = open_descriptors(), set(threading.enumerate())

    def check():
        gc.collect()
        ours = [one for one in threading.enumerate() if one.name.startswith("streamload") and one not in threads]
        for thread in ours:
            thread.join(60)
            assert not thread.is_alive(), thread.name
        assert open_descriptors() == before
        assert current_scope() is None

    return check


def load(saved, kind=tiny.Picky, dtype=torch.bfloat16):
    with patch(options=DEBUG):
        return kind.from_pretrained(saved, dtype=dtype)


def use(model):
    """Look at each weight, the last ones first."""
    for parameter in reversed(list(model.parameters())):
        assert not parameter.isnan().any()
    model.streamload.wait(60)


class Faulty(FaultySource):
    """One that outlives the checkpoint it is in, as a file does whose descriptor the engine has."""

    def close(self):
        pass


def break_reads(monkeypatch, at, opened):
    """Have the read of that number fail, of each file that is opened from now on."""
    whole = _patch.open_files

    def open_files(files):
        opened.append(whole(files))
        broken = {at: OSError(5, "broken")}
        shards = [replace(shard, source=Faulty(shard.source, fail=broken)) for shard in opened[-1].shards]
        return Checkpoint(opened[-1].url, shards, dict(opened[-1]))

    monkeypatch.setattr(_patch, "open_files", open_files)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["direct", "cast"])
@pytest.mark.parametrize("at", range(8))
def test_a_read_that_fails_fails_the_use_and_leaves_nothing(at, dtype, saved, monkeypatch, nothing_left):
    failed, opened = False, []
    with monkeypatch.context() as broken:
        break_reads(broken, at, opened)
        model = load(saved, dtype=dtype)
        try:
            use(model)
        except SourceError as error:
            failed = error.errno == 5 and error.url.endswith(".safetensors")
    assert failed or at > 1  # there are not so many reads of a file
    model.streamload.close()
    for parameter in model.parameters():
        try:
            assert not parameter.isnan().any()
        except (SourceError, StreamClosedError):  # what had not arrived when it was closed
            assert failed
    del model
    opened.pop().close()
    nothing_left()
    use(load(saved, dtype=dtype))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), MemoryError()], ids=repr)
@pytest.mark.parametrize("step", ["assemble", "stream_seats", "cast_pieces", "CastWeights", "_compute"])
def test_each_step_of_adopting_may_fail(step, error, saved, monkeypatch, nothing_left):
    whole, calls = getattr(_adopt, step), []

    def fail(*given: object, **more: object):
        calls.append(step)
        if step in ("assemble", "cast_pieces") and len(calls) < 5:  # in the middle
            return whole(*given, **more)
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(_adopt, step, fail)
        with pytest.raises(type(error)) as raised:
            load(saved)
    assert raised.value is error
    assert calls
    raised.value.__traceback__ = None
    del raised
    nothing_left()
    use(load(saved))


@pytest.mark.parametrize("at", [0, 1, 5, 20])
def test_an_interrupt_while_it_is_planned_leaves_nothing(at, saved, monkeypatch, nothing_left):
    whole, calls = _tensor._dispatch, []

    def interrupted(*given: object):
        calls.append(given[0])
        if len(calls) > at:
            raise KeyboardInterrupt
        return whole(*given)

    with monkeypatch.context() as broken:
        broken.setattr(_tensor, "_dispatch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(saved)
    calls.clear()
    nothing_left()
    use(load(saved))


@pytest.mark.parametrize("method", ["__init__", "tie_weights", "eval"])
@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_the_models_own_code_is_what_the_caller_gets(method, error, saved, nothing_left):
    def fail(*_: object, **__: object):
        raise error

    failing = type("Failing", (Llama,), {method: fail})
    with patch(options=DEBUG), pytest.raises(type(error)) as raised:
        failing.from_pretrained(saved)
    assert raised.value is error
    error.__traceback__ = None
    del raised
    nothing_left()


def test_a_thread_that_streams_leaves_the_others_loads_alone(saved):
    expected = [parameter.clone() for parameter in Llama.from_pretrained(saved).parameters()]
    start, turn = threading.Barrier(4), threading.Lock()

    def loads(number):
        start.wait(60)
        with patch(options=DEBUG) if number % 2 else nullcontext():
            for _ in range(5):
                with turn:  # transformers changes torch and itself for the whole process while it loads
                    model = Llama.from_pretrained(saved, dtype=torch.float32)
                assert hasattr(model, "streamload") == bool(number % 2)
                assert all(torch.equal(one, other) for one, other in zip(model.parameters(), expected, strict=True))

    with ThreadPoolExecutor(4) as pool:
        for answer in [pool.submit(loads, number) for number in range(4)]:
            answer.result(120)
    assert current_scope() is None


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_fifty_loads_leave_no_file_thread_or_memory(saved, nothing_left):
    def load_and_drop(number):
        model = load(saved)
        gone.append(weakref.ref(model))
        if number % 3 == 0:
            use(model)
        elif number % 3 == 1:
            model.streamload.close()

    gone = []
    for number in range(10):
        load_and_drop(number)
    gc.collect()
    before = resident_bytes()
    for number in range(50):
        load_and_drop(number)
    nothing_left()
    assert [one for one in gone if one() is not None] == []
    assert not [held for held in gc.get_objects() if type(held) is _tensor.LazyTensor]
    assert resident_bytes() - before < 20e6  # fifty of this model with all its Python objects are more
