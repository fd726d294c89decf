"""What an open checkpoint promises: a Mapping, layers, files that are closed again."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

import streamload._checkpoint as checkpoints
from streamload._checkpoint import Checkpoint
from streamload._format import TensorInfo
from streamload.errors import FormatError, SourceError, StreamClosedError


def make_checkpoint(names):
    return Checkpoint("somewhere", [], {name: TensorInfo(name, "U8", (0,), 0, 0) for name in names})


def test_single_file_opens(tmp_path, write):
    path = write(tmp_path / "any.safetensors", "x", "y", metadata={"format": "pt"})
    with checkpoints.open(path) as checkpoint:
        assert list(checkpoint) == ["x", "y"]
        assert checkpoint.nbytes == 8
        assert checkpoint.url == str(path)
        assert checkpoint.metadata == {"format": "pt"}
        assert [shard.url for shard in checkpoint.shards] == [str(path)]
        assert checkpoint.shards[0].nbytes == path.stat().st_size


def test_ranges_point_at_the_bytes_of_the_tensor(sharded):
    with checkpoints.open(sharded) as checkpoint:
        info = checkpoint["c"]
        buffer = bytearray(info.nbytes)
        assert checkpoint.shards[info.shard].source.read_into(info.start, memoryview(buffer)) == 4
        assert bytes(buffer) == b"mmmm"


def test_metadata_of_the_first_shard_wins(sharded):
    with checkpoints.open(sharded) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "part": "1", "more": "x"}


def test_failure_half_way_closes_what_was_open(sharded, write, open_descriptors):
    last = sharded / "model-00003-of-00003.safetensors"
    before = open_descriptors()
    for damage in (b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{]"):
        last.write_bytes(damage)
        with pytest.raises(FormatError):
            checkpoints.open(sharded)
    write(last, "not d")
    with pytest.raises(FormatError):
        checkpoints.open(sharded)
    last.unlink()
    with pytest.raises(FileNotFoundError):
        checkpoints.open(sharded)
    last.mkdir()
    with pytest.raises(IsADirectoryError):
        checkpoints.open(sharded)
    assert open_descriptors() == before


def test_file_that_shrinks_after_it_was_opened_is_a_typed_error(sharded, monkeypatch):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: 0 if offset else whole(fd, [buffers[0][:20]], offset))
    with pytest.raises(SourceError, match="the file ended after 20"):
        checkpoints.open(sharded)


def test_checkpoint_is_a_mapping(sharded):
    with checkpoints.open(sharded) as checkpoint:
        assert isinstance(checkpoint, Mapping)
        assert len(checkpoint) == 4
        assert "a" in checkpoint
        assert "z" not in checkpoint
        assert 3 not in checkpoint
        assert checkpoint.get("z") is None
        assert checkpoint.get("z", 1) == 1
        assert checkpoint.get("a") == checkpoint["a"]
        assert [info.name for info in checkpoint.values()] == list(checkpoint.keys())


def test_unknown_name_offers_the_nearest():
    tensors = {f"model.layers.{n}.mlp.{part}_proj.weight": None for n in range(300) for part in ("up", "down", "gate")}
    checkpoint = make_checkpoint([*tensors, "model.norm.weight", "lm_head.weight"])
    for wrong, right in [
        ("model.norm.wieght", "model.norm.weight"),
        ("lm_haed.weight", "lm_head.weight"),
        ("layers.7.mlp.up_proj.weight", "model.layers.7.mlp.up_proj.weight"),
    ]:
        with pytest.raises(KeyError, match=f"no tensor '{wrong}' in somewhere; nearest: .*{right}"):
            checkpoint[wrong]
    with pytest.raises(KeyError, match="no tensor 'zzz' in somewhere"):
        checkpoint["zzz"]
    with pytest.raises(KeyError, match="no tensor '5' in somewhere"):
        checkpoint[5]


def test_unknown_name_costs_little_whatever_the_names(count_calls):
    checkpoint = make_checkpoint([f"model.layers.{n}.weight" for n in range(2_000)] + ["x" * 100_000])

    def look_up():
        with pytest.raises(KeyError):
            checkpoint["model." * 10_000]

    assert count_calls(look_up) < 100 * 2_000


def test_layers_group_every_tensor(tmp_path, write):
    names = ["model.norm.weight", *[f"model.layers.{n}.up" for n in range(11)], "model.embed_tokens.weight"]
    with checkpoints.open(write(tmp_path / "model.safetensors", *names)) as checkpoint:
        assert [layer.name for layer in checkpoint.layers][::6] == [
            "model.embed_tokens",
            "model.layers.5",
            "model.norm",
        ]
        assert checkpoint.layers is checkpoint.layers
        assert sum(layer.nbytes for layer in checkpoint.layers) == checkpoint.nbytes


def test_close_closes_every_file_once(sharded, open_descriptors):
    before = open_descriptors()
    checkpoint = checkpoints.open(sharded)
    assert len(open_descriptors() - before) == 3
    checkpoint.close()
    checkpoint.close()
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "use",
    [
        lambda checkpoint: checkpoint["a"],
        lambda checkpoint: "a" in checkpoint,
        lambda checkpoint: checkpoint.get("a"),
        list,
        len,
        lambda checkpoint: checkpoint.layers,
        lambda checkpoint: checkpoint.shards,
        lambda checkpoint: checkpoint.metadata,
        lambda checkpoint: checkpoint.__enter__(),
    ],
)
def test_use_after_close_raises(sharded, use):
    checkpoint = checkpoints.open(sharded)
    checkpoint.close()
    with pytest.raises(StreamClosedError, match="the checkpoint is closed"):
        use(checkpoint)


def test_closed_checkpoint_still_says_what_it_was(sharded):
    with checkpoints.open(sharded) as checkpoint:
        assert "shards=3" in repr(checkpoint)
    assert "closed" in repr(checkpoint)
    assert (checkpoint.url, checkpoint.nbytes, checkpoint.closed) == (str(sharded), 16, True)


def test_file_without_tensors_is_an_empty_checkpoint(tmp_path, write):
    with checkpoints.open(write(tmp_path / "model.safetensors")) as checkpoint:
        assert len(checkpoint) == 0
        assert checkpoint.nbytes == 0
        assert checkpoint.layers == ()
