"""What lazy tensors say of where their bytes come from is right, and said only where it is."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import streamload
from streamload._format import TensorInfo
from streamload._lazy import assemble, lazy_state_dict
from streamload.torch import save_file
from streamload.torch._assembly import Assembly
from streamload.torch._dtypes import torch_dtype, torch_shape
from streamload.torch._submit import Target

CONTENT = {
    "layers.0.a": torch.arange(96.0).view(4, 24),
    "layers.0.b": torch.arange(100.0, 196.0).view(4, 24),
    "layers.0.square": torch.arange(1024.0).view(32, 32),
    "bytes": torch.arange(64, dtype=torch.uint8).view(4, 16),
    "scalar": torch.tensor(7.0),
    "none": torch.empty(0, 24),
    "large": torch.arange(200 * 100, dtype=torch.int16).view(200, 100),
    "eight": torch.arange(16.0).to(torch.float8_e5m2),
}
FOUR = getattr(torch, "float4_e2m1fn_x2", None)
needs_float4 = pytest.mark.skipif(FOUR is None, reason="torch before 2.8 has no float4")
if FOUR is not None:
    CONTENT["four"] = torch.arange(64, dtype=torch.uint8).view(4, 16).view(FOUR)


@pytest.fixture
def path(tmp_path):
    save_file(CONTENT, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def lazy(path):
    with streamload.open(path) as checkpoint:
        yield lazy_state_dict(checkpoint)


def put_together(path, source):
    """Do on bytes what the engine is told to do; no byte of the result is written twice, and none is left out."""
    shape = torch_shape(source)
    nbytes = source.nbytes
    assert nbytes == math.prod(shape) * torch_dtype(source).itemsize
    file, memory, filled = path.read_bytes(), bytearray(nbytes), bytearray(nbytes)
    for copy in Target(source, SimpleNamespace(data_ptr=lambda: 0)).copies():
        length = copy.end - copy.start
        for row in range(copy.rows):
            at, to = copy.start + row * copy.file_pitch, copy.address + row * copy.pitch
            assert 0 <= to <= nbytes - length
            assert not any(filled[to : to + length])
            memory[to : to + length] = file[at : at + length]
            filled[to : to + length] = bytes([1]) * length
    assert all(filled)
    return torch.frombuffer(memory, dtype=torch.uint8).view(torch_dtype(source)).view(shape)


def t(content, name="layers.0.a"):
    return content[name]


WHOLE = {
    "itself": lambda c: t(c),
    "detached": lambda c: t(c).detach(),
    "there and back": lambda c: t(c).t().t(),
    "cast to what it is": lambda c: t(c).to(torch.float32, copy=True),
    "square": lambda c: t(c, "layers.0.square").clone(),
    "scalar": lambda c: t(c, "scalar").clone(),
    "cat with empty": lambda c: torch.cat([t(c, "none"), t(c), torch.cat([t(c, "none")])]),
    "cat of one": lambda c: torch.cat([t(c)]),
}


@pytest.mark.parametrize("work", WHOLE.values(), ids=WHOLE.keys())
def test_a_tensor_of_the_file_is_known_as_one(lazy, path, work):
    source = assemble(work(lazy))
    assert isinstance(source, TensorInfo)
    found, expected = put_together(path, source), work(CONTENT)
    assert found.shape == expected.shape
    assert torch.equal(found.view(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))


PARTS = {
    "rows": lambda c: t(c)[1:3].contiguous(),
    "columns": lambda c: t(c)[:, 8:].contiguous(),
    "strided rows": lambda c: t(c)[::2].contiguous(),
    "row": lambda c: t(c)[2],
    "reshaped": lambda c: t(c).view(8, 12),
    "flat": lambda c: t(c).reshape(-1),
    "fused": lambda c: torch.cat([t(c), t(c, "layers.0.b")]),
    "fused by columns": lambda c: torch.cat([t(c), t(c, "layers.0.b")], dim=-1),
    "twice": lambda c: torch.cat([t(c), t(c)]),
    "stacked": lambda c: torch.stack([t(c), t(c, "layers.0.b")], dim=1),
    "experts": lambda c: torch.stack([torch.cat([t(c), t(c, "layers.0.b")]) for _ in range(3)]),
    "chunks changed about": lambda c: torch.cat(list(reversed(t(c).chunk(2, dim=1))), dim=1),
    "rows of heads": lambda c: t(c).view(2, 2, 24).transpose(0, 1).reshape(4, 24),
    "permuted": lambda c: t(c).view(2, 2, 24).permute(1, 0, 2).contiguous(),
    "transposed": lambda c: t(c).t().contiguous(),
    "square transposed": lambda c: t(c, "layers.0.square").t().contiguous(),
    "as bytes": lambda c: t(c).view(torch.uint8),
    "bytes as numbers": lambda c: t(c, "bytes").view(torch.float32),
    "bytes fused as numbers": lambda c: torch.cat([t(c, "bytes"), t(c, "bytes")]).view(torch.bfloat16),
    "squeezed": lambda c: t(c)[:1].squeeze(),
    "scalars": lambda c: torch.stack([t(c, "scalar"), t(c, "scalar")]),
    "float8": lambda c: t(c, "eight").view(4, 4)[1:],
}


@pytest.mark.parametrize("work", PARTS.values(), ids=PARTS.keys())
def test_moved_elements_are_parts_of_the_file(lazy, path, work):
    source = assemble(work(lazy))
    assert isinstance(source, Assembly)
    found, expected = put_together(path, source), work(CONTENT)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert not lazy["scalar"]._source.names_read


@needs_float4
def test_float4_is_put_together_by_the_byte(lazy, path):
    assert isinstance(assemble(lazy["four"]), TensorInfo)
    source = assemble(lazy["four"][2:])
    assert isinstance(source, Assembly)
    assert (source.dtype, source.shape) == ("F4", (2, 32))
    assert torch.equal(put_together(path, source).view(torch.uint8), CONTENT["four"][2:].view(torch.uint8))


COMPUTED = {
    "cast": lambda c: t(c).to(torch.bfloat16),
    "cast and fused": lambda c: torch.cat([t(c).to(torch.bfloat16), t(c, "layers.0.b").to(torch.bfloat16)]),
    "promoted": lambda c: torch.cat([t(c), t(c, "bytes")[:, :1].expand(4, 24)]),
    "expanded": lambda c: t(c)[:1].expand(4, 24).contiguous(),
    "not contiguous": lambda c: t(c).t(),
    "sum": lambda c: t(c) + t(c, "layers.0.b"),
    "windows": lambda c: t(c)[0].unfold(0, 8, 4).contiguous(),
    "flipped": lambda c: t(c).flip(0),
    "part of what was fused": lambda c: torch.cat([t(c), t(c, "layers.0.b")])[2:6],
    "many short rows": lambda c: t(c, "large").t().contiguous(),
    "empty": lambda c: t(c, "none"),
}


@pytest.mark.parametrize("work", COMPUTED.values(), ids=COMPUTED.keys())
def test_what_is_computed_has_no_parts(lazy, work):
    assert assemble(work(lazy)) is None


def test_what_was_written_to_has_no_parts_and_what_was_made_before_does(lazy, path):
    before = torch.cat([lazy["layers.0.a"], lazy["layers.0.b"]])
    view = lazy["layers.0.a"][1:]
    lazy["layers.0.a"].zero_()
    assert assemble(lazy["layers.0.a"]) is None
    assert assemble(view) is None
    found = put_together(path, assemble(before))
    assert torch.equal(found, torch.cat([CONTENT["layers.0.a"], CONTENT["layers.0.b"]]))
