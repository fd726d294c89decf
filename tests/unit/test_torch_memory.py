"""Devices by the names a caller gives them."""

from __future__ import annotations

import pytest
import torch

from streamload.torch._memory import resolve_device


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")], ids=repr)
def test_the_cpu_has_no_ordinal(device):
    assert resolve_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", [None, 1.5, [0], {}], ids=repr)
def test_what_is_no_device_at_all_is_refused_with_what_is_accepted(device):
    with pytest.raises(
        TypeError, match=r"names no device: expected 'cpu', 'cuda', 'cuda:<n>', the number of"
    ) as caught:
        resolve_device(device)
    assert repr(device) in str(caught.value)


@pytest.mark.parametrize("device", ["", "gpu", "cuda:x", -1, True, 3**60], ids=repr)
def test_a_name_of_no_device_is_refused_with_what_is_accepted(device):
    with pytest.raises(ValueError, match=r"is called .*: expected 'cpu', 'cuda', 'cuda:<n>', the number of"):
        resolve_device(device)
