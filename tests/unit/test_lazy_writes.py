"""What writes to lazy tensors, or looks at their memory, finds what it would find with real ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import streamload
from streamload._lazy import LazyTensor, lazy_state_dict
from streamload.torch import save_file

CONTENT = {
    "a": torch.arange(24.0).view(4, 6),
    "b": torch.arange(100.0, 124.0).view(4, 6),
    "whole": torch.arange(12).view(3, 4),
    "scalar": torch.tensor(7.0),
    "none": torch.empty(0, 6),
    "eight": torch.arange(16, dtype=torch.float32).to(torch.float8_e4m3fn),
    "complex": torch.complex(torch.arange(4.0), torch.arange(4.0) + 1),
}


@pytest.fixture
def path(tmp_path):
    save_file(CONTENT, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def checkpoint(path):
    with streamload.open(path) as checkpoint:
        yield checkpoint


@pytest.fixture
def lazy(checkpoint):
    return lazy_state_dict(checkpoint)


def read(lazy):
    return next(iter(lazy.values()))._source.names_read


def same(one, other):
    one = one.value() if isinstance(one, LazyTensor) else one
    assert type(one) is torch.Tensor
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.stride() == other.stride() or one.numel() < 2
    assert torch.equal(one.resolve_conj(), other.resolve_conj())


def write_view(t):
    view = t["a"][1:3]
    view.zero_()
    return t["a"]


def write_base(t):
    view = t["a"].t()[2]
    t["a"].add_(1)
    return view


def write_sibling(t):
    one, two = t["a"].view(24), t["a"][1]
    one[6:9] = 5
    return two


def write_after_computing(t):
    double = t["a"] * 2
    t["a"].zero_()
    return double


def write_computed(t):
    double = t["a"] * 2
    row = double[1]
    double.add_(t["b"])
    return row


def write_data(t):
    t["a"].data.zero_()
    return t["a"]


def write_later_use(t):
    t["a"].fill_(3)
    return torch.cat([t["a"].view(24), t["b"].view(24)])


def copy_between(t):
    t["a"][2:].copy_(t["b"][:2])
    return t["a"]


def write_through_numpy(t):
    t["a"].numpy()[0, 0] = 9
    return t["a"]


@pytest.mark.parametrize(
    "work",
    [
        write_view,
        write_base,
        write_sibling,
        write_after_computing,
        write_computed,
        write_data,
        write_later_use,
        copy_between,
        write_through_numpy,
    ],
)
def test_writes_are_seen_by_views_and_not_by_what_was_computed_before(lazy, work):
    real = {name: tensor.clone() for name, tensor in CONTENT.items()}
    for each in lazy.values():
        each.value()  # the pure value is not what is written to
    same(work(lazy), work(real))
    same(lazy["b"], real["b"])


def test_what_is_written_to_stays_the_object_it_was(lazy):
    held = lazy["a"]
    assert held.add_(1) is held
    assert held.written
    assert held.detach()[0].add_(1) is not None
    same(held, torch.cat([CONTENT["a"][:1] + 2, CONTENT["a"][1:] + 1]))
    assert not lazy["b"].written


def test_an_ordinary_tensor_takes_bytes_from_a_lazy_one(lazy):
    real = torch.zeros(4, 6)
    assert real.copy_(lazy["a"]) is real
    same(real, CONTENT["a"])
    real[:2] = lazy["b"][2:]
    same(real, torch.cat([CONTENT["b"][2:], CONTENT["a"][2:]]))


def test_forms_do_not_change_in_place(lazy):
    for change in (lambda t: t.t_(), lambda t: t.unsqueeze_(0), lambda t: t.resize_(2)):
        with pytest.raises(RuntimeError, match="in place"):
            change(lazy["a"])


def test_memory_that_is_asked_for_is_real_and_stays(lazy):
    held = lazy["a"]
    address = held.data_ptr()
    assert address == held.data_ptr() == held.view(24).data_ptr()
    assert held[1].data_ptr() == address + 24
    held.add_(1)
    assert held.value().data_ptr() == address


def test_asking_whether_memory_is_aligned_reads_nothing(lazy):
    held = lazy["a"]
    assert held.data_ptr() % 16 == held.data_ptr() % 64 == 0
    assert not held.written
    assert held.data_ptr() % 7 == held.data_ptr() - held.data_ptr() // 7 * 7
    assert held.written
    assert isinstance(held.data_ptr(), int)


def test_what_was_looked_at_may_become_a_parameter(lazy):
    held = lazy["a"]
    assert held.untyped_storage().nbytes() == 96
    parameter = nn.Parameter(held)
    assert isinstance(parameter, LazyTensor)
    same(parameter, CONTENT["a"])
    held.add_(1)  # the same memory
    same(parameter, CONTENT["a"] + 1)


def test_setting_data_takes_the_other_over(lazy):
    parameter = nn.Parameter(lazy["a"])
    parameter.data = lazy["b"].t()
    assert tuple(parameter.shape) == (6, 4)
    same(parameter, CONTENT["b"].t())
    parameter.data = torch.ones(6, 4)
    same(parameter, torch.ones(6, 4))
    with pytest.raises(RuntimeError, match="cannot become"):
        parameter.data = torch.ones(2)
