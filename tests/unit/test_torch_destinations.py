"""What the native core tells of destinations is what all questions to torch tell."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import streamload
from streamload._plan import copies_of
from streamload.errors import StreamClosedError
from streamload.torch import Destination, _destinations, fill, save_file
from streamload.torch._destinations import sort_by_device
from streamload.torch._dtypes import _NAMES, DLPACK_REALS

SHAPE = (4, 6)


class Plain(torch.Tensor):
    """A class of somebody else's."""


@pytest.fixture
def checkpoint(tmp_path):
    tensors = {
        "a": torch.arange(24.0).reshape(SHAPE),
        "c": torch.arange(24.0).reshape(SHAPE).to(torch.complex64),
        "empty": torch.zeros(0, 6),
        "scalar": torch.tensor(1.0),
        "bytes": torch.arange(24, dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with streamload.open(tmp_path / "model.safetensors") as checkpoint:
        yield checkpoint


CASES = {
    "plain": ("a", lambda: torch.zeros(SHAPE)),
    "parameter": ("a", lambda: torch.nn.Parameter(torch.zeros(SHAPE))),
    "subclass": ("a", lambda: torch.zeros(SHAPE).as_subclass(Plain)),
    "part of another": ("a", lambda: torch.zeros(9, 6)[3:7]),
    "scalar": ("scalar", lambda: torch.zeros(())),
    "empty": ("empty", lambda: torch.zeros(0, 6)),
    "empty, with an address": ("empty", lambda: torch.zeros(2, 6)[1:1]),
    "bytes": ("bytes", lambda: torch.zeros(24, dtype=torch.uint8)),
    "complex": ("c", lambda: torch.zeros(SHAPE, dtype=torch.complex64)),
    "conjugated": ("c", lambda: torch.zeros(SHAPE, dtype=torch.complex64).conj()),
    "negated": ("a", lambda: torch.zeros(SHAPE, dtype=torch.complex64).conj().imag),
    "negated, contiguous": ("a", lambda: torch._neg_view(torch.zeros(SHAPE))),
    "transposed": ("a", lambda: torch.zeros(6, 4).T),
    "of another dtype": ("a", lambda: torch.zeros(SHAPE, dtype=torch.float64)),
    "of another shape": ("a", lambda: torch.zeros(6, 4)),
    "expanded": ("a", lambda: torch.zeros(1, 6).expand(SHAPE)),
    "of no device": ("a", lambda: torch.zeros(SHAPE, device="meta")),
    "in coordinates": ("a", lambda: torch.zeros(SHAPE).to_sparse()),
    "in compressed rows": ("a", lambda: torch.zeros(SHAPE).to_sparse_csr()),
    "in compressed columns": ("a", lambda: torch.zeros(SHAPE).to_sparse_csc()),
    "in blocks": ("a", lambda: torch.zeros(SHAPE).to_sparse_bsr((2, 2))),
    "of oneDNN": ("a", lambda: torch.zeros(SHAPE).to_mkldnn()),
    "functional": ("a", lambda: torch._to_functional_tensor(torch.zeros(SHAPE))),
    "of zeros that are nowhere": ("a", lambda: torch._efficientzerotensor(SHAPE)),
    "no tensor": ("a", lambda: [0.0]),
    "of no such name": ("b", lambda: torch.zeros(SHAPE)),
}


needs_exchange = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="torch has DLPack's exchange table from 2.10 on"
)


def devices_or_none(checkpoint, destinations):
    try:
        return sort_by_device(checkpoint, destinations).values()
    except (TypeError, ValueError):
        return []


def told(checkpoint, destinations):
    try:
        devices = sort_by_device(checkpoint, destinations)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return type(error), str(error)
    return {
        device: (
            list(copies_of(found.group())),
            [*found.blocks, *((copy.address, copy.end - copy.start, 1, 0) for copy in copies_of(found.whole))],
            [*found.names, *found.whole_names],
            [id(tensor) for tensor in found.tensors],
            len(found.conversions),
        )
        for device, found in devices.items()
    }


@pytest.mark.parametrize(("name", "make"), CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_the_native_core_tells_what_all_questions_tell(name, make, checkpoint, monkeypatch):
    tensor = make()
    for destinations in ({name: tensor}, [Destination(name, tensor)], [Destination(name, tensor, [])]):
        few = told(checkpoint, destinations)
        with monkeypatch.context() as patch:
            patch.setattr(_destinations, "_PLAIN_KINDS", ())
            assert told(checkpoint, destinations) == few
        with monkeypatch.context() as patch:  # as before torch 2.10
            patch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
            assert told(checkpoint, destinations) == few
        assert few


def test_dtypes_may_alternate(checkpoint):
    tensors = {"a": torch.zeros(SHAPE), "bytes": torch.zeros(24, dtype=torch.uint8), "scalar": torch.zeros(())}
    (found,) = sort_by_device(checkpoint, tensors).values()
    assert [*found.whole_names, *found.names] == list(tensors)
    for name, copy in zip(tensors, copies_of(found.group()), strict=True):
        assert (copy.start, copy.end) == (checkpoint[name].start, checkpoint[name].end)
        assert copy.address == tensors[name].data_ptr()


@needs_exchange
@pytest.mark.parametrize("named", DLPACK_REALS)
def test_every_real_dtype_of_whole_bytes_is_told_natively(named, tmp_path):
    dtype = getattr(torch, _NAMES[named][0], None)
    if dtype is None:
        pytest.skip(f"this torch has no dtype for {named}")
    tensors = {"a": torch.zeros(8, dtype=torch.uint8).view(dtype)}
    save_file(tensors, tmp_path / "model.safetensors")
    with streamload.open(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint["a"].dtype == named
        (found,) = sort_by_device(checkpoint, tensors).values()
        assert (found.whole_names, found.names) == (["a"], [])
        wrong = {"a": torch.zeros(8, dtype=torch.complex64)}
        assert not any(found.whole_names for found in devices_or_none(checkpoint, wrong))


@needs_exchange
def test_whole_tensors_and_parts_are_one_group_and_may_not_meet(checkpoint):
    both, flat = torch.zeros(8, 6), torch.zeros(24, dtype=torch.uint8)
    wanted = [Destination("a", both[:4]), Destination("a", both[4:, :3], (slice(None), slice(0, 3)))]
    (found,) = sort_by_device(checkpoint, [*wanted, Destination("bytes", flat)]).values()
    assert (found.whole_names, found.names) == (["a", "bytes"], ["a"])
    assert [copy.rows for copy in copies_of(found.group())] == [1, 1, 4]
    found.refuse_shared_memory()
    with pytest.raises(ValueError, match="'a' and 'scalar'"):
        fill(checkpoint, {"a": both[4:], "scalar": both[5, 2]})
    with pytest.raises(ValueError, match="'a' and 'a'"):
        fill(checkpoint, [*wanted, Destination("a", both[1:5])])
    assert not both.any()


class Turning(Mapping):
    """Gives its names in another order each time."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.turned = False

    def __iter__(self):
        self.turned = not self.turned
        return iter(sorted(self.tensors, reverse=self.turned))

    def __len__(self):
        return len(self.tensors)

    def __getitem__(self, name):
        return self.tensors[name]


class Hiding(dict):
    """Says less than it holds."""

    def items(self):
        return [(name, tensor) for name, tensor in super().items() if name != "bytes"]


@pytest.mark.parametrize("kind", [Turning, Hiding])
def test_a_mapping_is_asked_once(kind, checkpoint):
    tensors = {"a": torch.zeros(SHAPE), "bytes": torch.zeros(24, dtype=torch.uint8), "scalar": torch.zeros(())}
    fill(checkpoint, kind(tensors))
    assert tensors["a"].equal(torch.arange(24.0).reshape(SHAPE))
    assert tensors["scalar"] == 1
    assert bool(tensors["bytes"].any()) == (kind is Turning)


def test_a_checkpoint_that_is_closed_is_told_at_once(checkpoint):
    checkpoint.close()
    with pytest.raises(StreamClosedError):
        sort_by_device(checkpoint, {})
