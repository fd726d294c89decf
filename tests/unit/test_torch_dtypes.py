"""The dtype and shape torch is given for each safetensors dtype."""

from __future__ import annotations

import pytest
import torch

from streamload._format import DTYPE_BITS, TensorInfo
from streamload.torch._dtypes import torch_dtype, torch_shape


def info(dtype, shape=(2, 4)):
    return TensorInfo("layer.w", dtype, shape, 8, 8 + 8 * DTYPE_BITS.get(dtype, 8) // 8)


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BITS) - {"F6_E2M3", "F6_E3M2", "F4"}))
def test_every_whole_byte_dtype_has_torchs_size(dtype):
    assert torch_dtype(info(dtype)).itemsize * 8 == DTYPE_BITS[dtype]
    assert torch_shape(info(dtype)) == (2, 4)


def test_packed_f4_halves_the_last_extent():
    assert torch_dtype(info("F4")) is torch.float4_e2m1fn_x2
    assert torch_shape(info("F4")) == (2, 2)


@pytest.mark.parametrize("shape", [(3,), (2, 3), ()])
def test_f4_that_torch_cannot_pack_is_refused(shape):
    with pytest.raises(TypeError, match=r"layer\.w.*even last extent"):
        torch_shape(info("F4", shape))


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
def test_dtypes_that_no_torch_has_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"layer\.w.*{dtype}.*no torch release"):
        torch_dtype(info(dtype))


def test_a_dtype_of_a_later_torch_names_that_release(monkeypatch):
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    with pytest.raises(TypeError, match=r"F8_E8M0.*release 2\.7 on as torch\.float8_e8m0fnu; this is torch"):
        torch_dtype(info("F8_E8M0"))
