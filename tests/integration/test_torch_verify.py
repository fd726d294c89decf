"""Loads that compare tensors with the manifest while bytes pass: a wrong one is never handed over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

import streamload.torch as st
from streamload import StreamOptions
from streamload._checkpoint import open as open_checkpoint
from streamload._verify import make_manifest
from streamload.errors import ChecksumError
from streamload.testing import LlamaShape, make_checkpoint

OPTIONS = StreamOptions(chunk_bytes=64 << 10, staging_bytes=512 << 10, verify=True)
SHAPE = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=4, intermediate=160, vocab=512, dtype="F32")


@pytest.fixture
def summed(tmp_path):
    """A checkpoint with its manifest."""
    path = make_checkpoint(tmp_path / "model", SHAPE)
    make_manifest(path)
    return path


def flip(path, name, *, byte):
    """Flip one bit of one byte of a tensor, leaving the file's times as they were."""
    with open_checkpoint(path) as checkpoint:
        info = checkpoint[name]
        file = Path(checkpoint.shards[info.shard].url.removeprefix("file://"))
    offset = (info.start + byte) if byte >= 0 else info.end + byte
    times = file.stat()
    with file.open("r+b") as opened:
        opened.seek(offset)
        value = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([value ^ 0x10]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return str(file), info


def existing(path):
    with open_checkpoint(path) as checkpoint:
        return {info.name: torch.zeros(info.shape) for info in checkpoint.values()}


LOADS = {
    "load_file": lambda path: st.load_file(path, options=OPTIONS),
    "iter_tensors": lambda path: dict(st.iter_tensors(path, "cpu", options=OPTIONS)),
    "fill": lambda path: st.fill(path, existing(path), options=OPTIONS),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_right_bytes_pass(load, summed):
    load(summed)


@pytest.mark.parametrize("byte", [0, 12345, -1])
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_one_flipped_bit_is_named_and_never_handed_over(load, byte, summed):
    with open_checkpoint(summed) as checkpoint:
        name = max(checkpoint.values(), key=lambda info: info.nbytes).name
    file, info = flip(summed, name, byte=byte)
    with pytest.raises(ChecksumError) as caught:
        load(summed)
    assert name in str(caught.value)
    assert caught.value.url == file
    assert (caught.value.offset, caught.value.nbytes) == (info.start, info.nbytes)
    assert caught.value.expected != caught.value.actual


def test_the_wrong_tensor_is_not_among_those_handed_over_before(summed):
    with open_checkpoint(summed) as checkpoint:
        last = checkpoint.layers[-1].tensors[-1].name
    flip(summed, last, byte=0)
    seen = []

    def take_all():
        for name, _ in st.iter_tensors(summed, "cpu", options=OPTIONS):
            seen.append(name)

    with pytest.raises(ChecksumError):
        take_all()
    assert last not in seen


def test_without_verify_nothing_is_compared(summed):
    with open_checkpoint(summed) as checkpoint:
        name = next(iter(checkpoint))
    flip(summed, name, byte=0)
    dict(st.iter_tensors(summed, "cpu"))


def test_verify_without_a_manifest_says_how_to_make_one(tmp_path):
    path = make_checkpoint(tmp_path / "model", SHAPE)
    for load in LOADS.values():
        with pytest.raises(FileNotFoundError, match="streamload manifest"):
            load(path)


def test_parts_of_tensors_are_said_not_to_be_compared(summed, caplog):
    with open_checkpoint(summed) as checkpoint:
        info = max(checkpoint.values(), key=lambda info: info.nbytes)
    part = torch.zeros(info.shape[0] // 2, *info.shape[1:])
    index = (slice(0, part.shape[0]),)
    with caplog.at_level(logging.WARNING):
        st.fill(summed, [st.Destination(info.name, part, index)], options=OPTIONS)
    assert any(info.name in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("make", [lambda t: torch.zeros(t.shape, dtype=torch.float16), lambda t: t.T.contiguous().T])
def test_tensors_converted_window_by_window_are_compared_too(make, summed, monkeypatch):
    monkeypatch.setattr("streamload.torch._fill.TRANSIENT_BYTES", 64 << 10)
    places = {name: make(tensor) for name, tensor in existing(summed).items() if tensor.dim() == 2}
    st.fill(summed, places, options=OPTIONS)
    name = max(places, key=lambda name: places[name].numel())
    flip(summed, name, byte=100_000)
    places = {name: torch.full_like(place, 7) for name, place in places.items()}
    with pytest.raises(ChecksumError, match=name):
        st.fill(summed, places, options=OPTIONS)
    assert all(bool((place == 7).all()) for place in places.values())


def test_a_tensor_filled_piece_by_piece_is_compared_whole(summed):
    with open_checkpoint(summed) as checkpoint:
        info = max(checkpoint.values(), key=lambda info: info.nbytes)
    rows = [st.Destination(info.name, torch.zeros(info.shape[1]), (row,)) for row in range(info.shape[0])]
    st.fill(summed, rows, options=OPTIONS)
    flip(summed, info.name, byte=100_000)
    with pytest.raises(ChecksumError, match=info.name):
        st.fill(summed, rows, options=OPTIONS)


def test_a_tensor_put_into_two_places_is_said_not_to_be_compared(summed, caplog):
    with open_checkpoint(summed) as checkpoint:
        info = max(checkpoint.values(), key=lambda info: info.nbytes)
    places = [st.Destination(info.name, torch.zeros(info.shape)) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        st.fill(summed, places, options=OPTIONS)
    assert any(info.name in record.getMessage() for record in caplog.records)


def test_safe_open_refuses_to_verify(summed):
    file = next(summed.glob("*.safetensors"))
    with pytest.raises(ValueError, match="verify"):
        st.safe_open(file, options=OPTIONS)
