"""`safe_open` and its slices, with safetensors' as the oracle: what is accepted, what is raised, when it is closed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch
from safetensors import safe_open as safetensors_open

import streamload.torch
from streamload import ChangedError, FormatError, StreamClosedError
from streamload._sources import MemorySource
from streamload.torch import _host, _safe_open, iter_tensors, load, load_file, safe_open, save

TENSORS = {
    "a": torch.arange(120.0).view(4, 6, 5),
    "b": torch.arange(3),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3.0),
}

INDICES = [
    *(0, -1, 3, 4, -4, -5, slice(1, 3), slice(None), slice(None, None, 2), slice(3, None, -1), slice(-2, None)),
    *(slice(0, 100), slice(3, 1), slice(4, 4), ..., (..., 0), (0, ...), (0, ..., 1), (..., ...), (), (0, 1, 2)),
    *((0, 1, 2, 3), (0, 1, 2, ...), (slice(1, 3), 2), (slice(None), slice(None), 0), [0, 1], [1, 0], [0, 0], [3, -1]),
    *([4], [], ([0, 1],), (slice(None), [0, 2]), ([0, 1], [0, 1]), (0, [1, 3]), [True, False], True, None, (None, 1)),
    *(
        numpy.int64(1),
        numpy.array([2, 0]),
        numpy.array(1),
        torch.tensor(1),
        torch.tensor([2, 1]),
        1.0,
        "a",
        slice(1.0, 2),
        slice("a"),
    ),
    *(range(2), slice(0, 0), slice(2**70), 2**70, [2**70], (slice(None),) * 4, (..., [0, 1]), slice(1, None, 0)),
    *(slice(numpy.int64(1), numpy.int64(2)), (0, []), ([0, 1], slice(0, 2), slice(1, 3))),
]


@pytest.fixture
def path(tmp_path):
    """A file with a few tensors."""
    safetensors.torch.save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def outcome(use):
    """The tensor that came, or the type of what was raised."""
    try:
        return use()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", ["a", "scalar", "empty"])
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_an_index_gives_or_raises_what_safetensors_does(name, index, path):
    with safetensors_open(path, "pt") as expected, safe_open(path, "pt") as got:
        theirs = outcome(lambda: expected.get_slice(name)[index])
        ours = outcome(lambda: got.get_slice(name)[index])
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        else:
            assert ours is theirs


def test_bytes_read_counts_what_slices_read_and_nothing_else(path):
    with safe_open(path) as file:
        file.get_tensor("a")
        file.get_slice("a")[:]
        file.get_slice("a").get_shape()
        assert file.bytes_read == 0
        file.get_slice("a")[1:3]
        assert file.bytes_read == 2 * 30 * 4
        file.get_slice("a")[:, 2, :]
        assert file.bytes_read == 2 * 30 * 4 + 4 * 5 * 4


def test_the_system_agrees_that_slices_read_only_their_bytes(tmp_path):
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file({"t": torch.zeros(1024, 1024)}, path)

    def read_so_far():
        with open("/proc/self/io") as file:  # noqa: PTH123  # a file of the system
            return int(file.readline().split()[1])

    with safe_open(path) as file:
        part = file.get_slice("t")
        before, overhead = read_so_far(), read_so_far()
        overhead -= before
        part[:, 100:200]
        spent = read_so_far() - before - 2 * overhead
    assert spent == 1024 * 100 * 4


def test_names_that_are_not_there_offer_the_nearest(path):
    with safe_open(path) as file:
        for get in (file.get_tensor, file.get_slice):
            with pytest.raises(KeyError, match="scalar"):
                get("scalr")
            with pytest.raises(TypeError):
                get(1)


def test_use_after_close_raises_and_tensors_stay(path):
    with safe_open(path) as file:
        tensor, part = file.get_tensor("a"), file.get_slice("a")
    file.close()
    for use in (file.keys, file.offset_keys, file.metadata, file.get_tensors, lambda: part[0], lambda: part[:]):
        with pytest.raises(StreamClosedError):
            use()
    with pytest.raises(StreamClosedError):
        file.get_tensor("a")
    assert part.get_shape() == [4, 6, 5]
    assert torch.equal(tensor, TENSORS["a"])


USES_OF_A_FILE = {
    "tensor": (_host, "torch_dtype", lambda file, part: file.get_tensor("a")),
    "tensors": (_host, "torch_dtype", lambda file, part: file.get_tensors()),
    "whole slice": (_safe_open, "select", lambda file, part: part[:]),
    "slice": (_safe_open, "select", lambda file, part: part[:, 2]),
    "elements": (_safe_open, "select", lambda file, part: part[:, [2, 0]]),
}


@pytest.mark.parametrize("inside", USES_OF_A_FILE.values(), ids=USES_OF_A_FILE.keys())
def test_closing_in_the_middle_of_a_use_is_told_as_such(inside, path, monkeypatch):
    module, name, use = inside
    real = getattr(module, name)
    file = safe_open(path)
    part = file.get_slice("a")
    assert part[1:2].shape == (1, 6, 5)
    read = file.bytes_read

    def close_first(*args):  # noqa: ANN002  # whatever the function takes
        file.close()  # as another thread would, after this one found the file open
        return real(*args)

    monkeypatch.setattr(module, name, close_first)
    with pytest.raises(StreamClosedError):
        use(file, part)
    assert file.bytes_read == read


def test_close_lets_go_of_the_mapping(path):
    def mapped():
        return str(path) in Path("/proc/self/maps").read_text()

    with safe_open(path) as file:
        file.get_tensor("a")
        assert mapped()
    assert not mapped()


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_devices_by_name_and_object(device, path):
    with safe_open(path, "pt", device) as file:
        assert torch.equal(file.get_tensor("b"), TENSORS["b"])
    assert torch.equal(load_file(path, device)["b"], TENSORS["b"])


def test_arguments_that_mean_nothing_are_refused(path):
    with pytest.raises(ValueError, match="framework must be 'pt'"):
        safe_open(path, "numpy")
    with pytest.raises(ValueError, match="mps"):
        safe_open(path, device="mps")


def test_mapped_tensors_are_private_writable_and_share_nothing(path):
    one, other = load_file(path), load_file(path)
    one["a"].zero_()
    assert torch.equal(other["a"], TENSORS["a"])
    assert torch.equal(load_file(path)["a"], TENSORS["a"])
    assert not one["a"].requires_grad
    one["a"].requires_grad_()
    assert one["a"].is_leaf


def test_mapped_tensors_outlive_file_name_and_handle(path):
    tensors = load_file(path)
    path.unlink()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)


def test_a_file_replaced_after_open_is_noticed(path):
    with safe_open(path) as file:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
        with pytest.raises(ChangedError):
            file.get_tensor("a")


def test_load_takes_bytes_and_refuses_what_is_none():
    data = save(TENSORS)
    for name, tensor in load(data).items():
        assert torch.equal(tensor, TENSORS[name])
    for bad in (b"", b"12345678", data[:-1]):
        with pytest.raises(FormatError):
            load(bad)


def test_whatever_source_holds_the_bytes_slices_work(path):
    from streamload._checkpoint import Shard
    from streamload.torch._host import HostTensors

    content = path.read_bytes()
    with streamload.open(path) as checkpoint, MemorySource(content) as source:
        host = HostTensors([Shard("memory", len(content), source, {})])
        assert torch.equal(host.tensor(checkpoint["a"]), TENSORS["a"])


def test_a_directory_of_shards_loads_as_one(tmp_path):
    import json

    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        shard = f"model-{number:05}-of-00004.safetensors"
        safetensors.torch.save_file({name: tensor}, tmp_path / shard)
        weight_map[name] = shard
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path).items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    with safe_open(tmp_path) as file:
        assert file.keys() == sorted(TENSORS)
        assert torch.equal(file.get_slice("a")[1], TENSORS["a"][1])


def test_every_name_of_safetensors_torch_is_here():
    names = {"load", "load_file", "load_model", "save", "save_file", "save_model", "safe_open"}
    assert names <= set(streamload.torch.__all__)
    assert all(callable(getattr(streamload.torch, name)) for name in names)


@pytest.mark.parametrize("around", [lambda: torch.device("meta"), torch.inference_mode, torch.no_grad], ids=repr)
def test_results_do_not_depend_on_the_surroundings(around, path):
    with around():
        tensors = {**load_file(path), **dict(iter_tensors(path)), **load(path.read_bytes())}
        with safe_open(path) as file:
            parts = [file.get_slice("a")[index] for index in (slice(1, 3), [2, 0], (..., 1))]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert all(
        torch.equal(part, TENSORS["a"][index])
        for part, index in zip(parts, (slice(1, 3), [2, 0], (..., 1)), strict=True)
    )
