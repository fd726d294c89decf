"""What is told of a destination by few questions is what all of them tell."""

from __future__ import annotations

import pytest
import torch

import streamload
from streamload.errors import StreamClosedError
from streamload.torch import Destination, _destinations, save_file
from streamload.torch._destinations import sort_by_device

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


def told(checkpoint, destinations):
    try:
        devices = sort_by_device(checkpoint, destinations)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return type(error), str(error)
    return {
        device: (
            found.copies,
            found.blocks,
            found.names,
            [id(tensor) for tensor in found.tensors],
            len(found.conversions),
        )
        for device, found in devices.items()
    }


@pytest.mark.parametrize(("name", "make"), CASES.values(), ids=CASES.keys())
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_few_questions_tell_what_all_of_them_tell(name, make, checkpoint, monkeypatch):
    tensor = make()
    for destinations in ({name: tensor}, [Destination(name, tensor)], [Destination(name, tensor, [])]):
        few = told(checkpoint, destinations)
        with monkeypatch.context() as patch:
            patch.setattr(_destinations, "_PLAIN_KINDS", ())
            assert told(checkpoint, destinations) == few
        assert few


def test_dtypes_may_alternate(checkpoint):
    tensors = {"a": torch.zeros(SHAPE), "bytes": torch.zeros(24, dtype=torch.uint8), "scalar": torch.zeros(())}
    (found,) = sort_by_device(checkpoint, tensors).values()
    assert found.names == list(tensors)
    for name, copy in zip(found.names, found.copies, strict=True):
        assert (copy.start, copy.end) == (checkpoint[name].start, checkpoint[name].end)
        assert copy.address == tensors[name].data_ptr()


def test_a_checkpoint_that_is_closed_is_told_at_once(checkpoint):
    checkpoint.close()
    with pytest.raises(StreamClosedError):
        sort_by_device(checkpoint, {})
