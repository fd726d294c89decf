"""`model.streamload.progress` and `stats`: what is cast is counted like the rest, by its bytes in the file."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import streamload  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.torch import _casting  # noqa: E402 - after the skips
from streamload.transformers import _stream, patch  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

Llama = transformers.LlamaForCausalLM


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny")
    model = Llama.from_pretrained(tiny.save(directory / "bfloat16"))
    model.float().save_pretrained(directory / "float32")
    return directory


def load(directory, dtype, kind=Llama):
    with patch(options=StreamOptions(debug=True)):
        return kind.from_pretrained(directory, dtype=dtype)


def size_of(directory):
    with streamload.open(directory) as checkpoint:
        return sum(info.nbytes for info in checkpoint.values())


CASES = {
    "as it is": ("float32", "auto", Llama),
    "all cast": ("float32", torch.bfloat16, Llama),
    "all widened": ("bfloat16", torch.float32, Llama),
    "some cast": ("float32", torch.bfloat16, tiny.Picky),
    "some widened": ("bfloat16", torch.bfloat16, tiny.Picky),
}


@pytest.mark.parametrize(("where", "dtype", "kind"), CASES.values(), ids=CASES.keys())
def test_every_byte_of_the_file_is_counted(where, dtype, kind, saved):
    model = load(saved / where, dtype, kind)
    handle = model.streamload
    for _ in range(2):
        assert 0.0 <= handle.progress() <= 1.0
        handle.wait(60)
        stats = handle.stats()
        assert handle.progress() == 1.0
        assert stats.bytes_total == stats.bytes_resident == stats.bytes_read == size_of(saved / where)
        assert stats.groups_resident == stats.groups > 0
        assert 0 < stats.first_byte_seconds <= stats.first_group_seconds <= stats.seconds
        assert stats.seconds == handle.stats().seconds  # over is over
        handle.sleep()
        assert handle.progress() == 0.0
        handle.wake()


def test_what_is_cast_counts_group_by_group(saved, monkeypatch):
    monkeypatch.setattr(_stream, "_GROUP_BYTES", 1)
    go, waiting, whole = threading.Semaphore(0), threading.Semaphore(0), _casting.fill_converted

    def held(*given: object):
        waiting.release()
        assert go.acquire(timeout=60)
        return whole(*given)

    monkeypatch.setattr(_casting, "fill_converted", held)
    model = load(saved / "float32", torch.bfloat16)
    handle, seen = model.streamload, []
    groups = handle.stats().groups
    assert groups == len(list(model.parameters()))
    for _ in range(groups):
        assert waiting.acquire(timeout=60)  # the group before is there
        seen.append(handle.progress())
        assert handle.stats().groups_resident == len(seen) - 1
        go.release()
    handle.wait(60)
    assert [*seen, handle.progress()] == sorted({*seen, 1.0})
    assert seen[0] == 0.0


def test_a_cast_that_failed_is_not_counted(saved, monkeypatch):
    def fail(*_: object):
        raise streamload.errors.SourceError("broken", url="file:///there", offset=0, nbytes=1, errno=5)

    monkeypatch.setattr(_casting, "fill_converted", fail)
    model = load(saved / "float32", torch.bfloat16)
    handle = model.streamload
    with pytest.raises(streamload.errors.SourceError):
        handle.wait(60)
    assert handle.progress() == 0.0
    assert handle.stats().bytes_total == size_of(saved / "float32")
