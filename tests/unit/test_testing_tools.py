"""The shipped test tools keep their own promises."""

from __future__ import annotations

import threading

import numpy
import pytest
from safetensors import safe_open

from streamload._checkpoint import open as open_checkpoint
from streamload._sources import MemorySource
from streamload.testing import FaultySource, LlamaShape, make_checkpoint

SHAPE = LlamaShape(layers=2, hidden=16, heads=4, kv_heads=2, intermediate=32, vocab=24, dtype="F32")


def test_faulty_source_fails_the_named_read_and_no_other():
    source = FaultySource(MemorySource(b"0123456789"), fail={1: OSError(5, "gone")}, short={2: 3})
    buffer = memoryview(bytearray(5))
    assert source.read_into(0, buffer) == 5
    with pytest.raises(OSError, match="gone"):
        source.read_into(5, buffer)
    assert source.read_into(0, buffer) == 3
    assert source.reads == [(0, 5), (5, 5), (0, 5)]
    source.close()
    assert source.closed


def test_faulty_source_holds_a_read_until_it_is_let_go():
    gate = threading.Event()
    source = FaultySource(MemorySource(b"abc"), hold={0: gate})
    buffer = bytearray(3)
    reader = threading.Thread(target=source.read_into, args=(0, memoryview(buffer)))
    reader.start()
    assert bytes(buffer) == b"\0\0\0"
    gate.set()
    reader.join()
    assert bytes(buffer) == b"abc"


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("shards", [1, 3, 21])
def test_checkpoint_opens_and_holds_what_the_shape_says(tmp_path, dtype, shards):
    shape = LlamaShape(layers=2, hidden=16, heads=4, kv_heads=2, intermediate=32, vocab=24, dtype=dtype)
    with open_checkpoint(make_checkpoint(tmp_path, shape, shards=shards)) as checkpoint:
        assert {name: tensor.shape for name, tensor in checkpoint.items()} == shape.tensors()
        assert {tensor.dtype for tensor in checkpoint.values()} == {dtype}
        assert len(checkpoint.shards) == shards
        assert checkpoint.nbytes == shape.nbytes


def test_checkpoint_is_valid_for_safetensors_and_tame(tmp_path):
    make_checkpoint(tmp_path, SHAPE, shards=1)
    with safe_open(tmp_path / "model-00001-of-00001.safetensors", "np") as file:
        assert sorted(file.keys()) == sorted(SHAPE.tensors())
        embedding = numpy.abs(file.get_tensor("model.embed_tokens.weight"))
        assert embedding.min() >= 2**-7
        assert embedding.max() < 2**-5
        assert len(numpy.unique(embedding)) > embedding.size * 0.9
        assert (file.get_tensor("model.norm.weight") == 1).all()


def test_checkpoint_depends_on_the_seed_only(tmp_path):
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_checkpoint(tmp_path / name, SHAPE, shards=2, seed=seed)
        contents.append((tmp_path / name / "model-00001-of-00002.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_checkpoint_is_kept_when_it_is_the_same_and_written_again_when_not(tmp_path):
    shard = tmp_path / "model-00001-of-00002.safetensors"
    make_checkpoint(tmp_path, SHAPE, shards=2)
    first = shard.stat().st_mtime_ns
    told = []
    make_checkpoint(tmp_path, SHAPE, shards=2, progress=told.append)
    assert shard.stat().st_mtime_ns == first
    assert told == [SHAPE.nbytes]
    shard.write_bytes(shard.read_bytes()[:-1])
    make_checkpoint(tmp_path, SHAPE, shards=2, progress=told.append)
    assert shard.stat().st_mtime_ns != first
    assert sum(told) == 2 * SHAPE.nbytes


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="dtype"):
        LlamaShape(layers=1, hidden=16, heads=4, kv_heads=2, intermediate=8, vocab=8, dtype="I8")
    with pytest.raises(ValueError, match="heads"):
        LlamaShape(layers=1, hidden=16, heads=3, kv_heads=3, intermediate=8, vocab=8)
    with pytest.raises(ValueError, match="shards"):
        make_checkpoint("never made", SHAPE, shards=22)
