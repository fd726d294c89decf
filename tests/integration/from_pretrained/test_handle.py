"""`model.streamload` where things go wrong around sleep and wake; among what arrives are weights that are cast."""

from __future__ import annotations

import gc
import threading

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from streamload.errors import SourceError, StreamClosedError  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.torch import _casting  # noqa: E402 - after the skips
from streamload.transformers import _stream, patch  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

pytestmark = pytest.mark.slow

Llama = transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    Llama.from_pretrained(tiny.save(directory / "bfloat16")).float().save_pretrained(directory / "float32")
    return directory / "float32"


@pytest.fixture(params=[Llama, tiny.Picky], ids=["all cast", "some cast"])
def kind(request):
    return request.param


def load(saved, kind):
    with patch(options=StreamOptions(debug=True)):
        return kind.from_pretrained(saved, dtype=torch.bfloat16)


def test_what_was_removed_from_the_model_does_not_wake_with_it(saved, kind):
    model = load(saved, kind)
    handle = model.streamload
    handle.wait(60)
    expected = [parameter.clone() for parameter in model.model.parameters()]
    del model.lm_head
    gc.collect()
    handle.sleep()
    handle.wake()
    handle.wait(60)
    assert all(torch.equal(one, other) for one, other in zip(model.model.parameters(), expected, strict=True))


def test_a_model_that_is_gone_sleeps_and_wakes_without_harm(saved, kind):
    handle = load(saved, kind).streamload
    gc.collect()
    for _ in range(2):
        handle.sleep()
        assert handle.asleep
        handle.wake()
        assert not handle.asleep
    handle.close()


def test_a_load_that_failed_is_loaded_again_by_waking(saved, kind, monkeypatch):
    def fail(*_: object):
        raise SourceError("broken", url="file:///there")

    with monkeypatch.context() as broken:
        broken.setattr(_casting, "fill_converted", fail)
        model = load(saved, kind)
        for _ in range(2):
            with pytest.raises(SourceError, match="broken"):
                model.streamload.wait(60)
            with pytest.raises(SourceError, match="broken"):
                model.lm_head.weight.sum()
    model.streamload.wake()
    model.streamload.wait(60)
    tiny.assert_equal(model, kind.from_pretrained(saved, dtype=torch.bfloat16))


def test_memory_that_is_short_at_waking_leaves_what_sleeps_for_another_try(saved, kind, monkeypatch):
    model = load(saved, kind)
    handle = model.streamload
    handle.wait(60)
    handle.sleep()

    def none_left(*_: object):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as short:
        short.setattr(_stream, "give_memory", none_left)
        with pytest.raises(torch.OutOfMemoryError):
            handle.wake()
    assert handle.asleep
    with pytest.raises(StreamClosedError, match="asleep"):
        model.lm_head.weight.sum()
    handle.wake()
    handle.wait(60)
    assert not handle.asleep
    tiny.assert_equal(model, kind.from_pretrained(saved, dtype=torch.bfloat16))


def test_a_cancelled_load_says_so_at_the_use(saved, kind, monkeypatch):
    monkeypatch.setattr(_stream, "_GROUP_BYTES", 1)
    cancelled, whole = threading.Event(), _casting.fill_converted

    def held(*given: object):
        assert cancelled.wait(60)
        return whole(*given)

    monkeypatch.setattr(_casting, "fill_converted", held)
    model = load(saved, kind)
    model.streamload.cancel()
    cancelled.set()
    with pytest.raises(StreamClosedError, match="cancelled"):
        model.streamload.wait(60)
    with pytest.raises(StreamClosedError, match="cancelled"):
        model.lm_head.weight.sum()
    model.streamload.close()
    assert model.streamload.done
