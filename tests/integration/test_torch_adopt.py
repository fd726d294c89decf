"""A module of lazy tensors is filled in place: fused, cut, transposed and tied ones arrive like any other."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import streamload
from streamload import StreamOptions
from streamload._checkpoint import open as open_checkpoint
from streamload._lazy import LazyTensor, assemble, lazy_state_dict
from streamload._verify import make_manifest
from streamload.errors import ChecksumError, SourceError, StreamClosedError
from streamload.torch import save_file
from streamload.torch._adopt import stream_seats
from streamload.torch._seats import Seat
from streamload.transformers._adopt import adopt

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

WIDTH, EXPERTS = 64, 3


class Fused(nn.Module):
    def __init__(self, device):
        super().__init__()
        self.embed = nn.Embedding(96, WIDTH, device=device)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, device=device)
        self.experts = nn.Parameter(torch.empty(EXPERTS, 2 * WIDTH, WIDTH, device=device))
        self.cut = nn.Linear(WIDTH, WIDTH // 2, bias=False, device=device)
        self.turned = nn.Parameter(torch.empty(2, 4, WIDTH, device=device))
        self.cast = nn.Linear(WIDTH, WIDTH, bias=False, device=device, dtype=torch.float64)
        self.register_buffer("scale", torch.empty((), device=device))
        self.head = nn.Linear(WIDTH, 96, bias=False, device=device)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        hidden = self.embed(ids)
        query, key, value = self.qkv(hidden).chunk(3, -1)
        hidden = hidden + (query @ key.transpose(-1, -2)).softmax(-1) @ value
        for expert in self.experts:
            gate, up = (hidden @ expert.t()).chunk(2, -1)
            hidden = hidden + gate.tanh() * up.tanh()
        hidden = torch.cat([self.cut(hidden), self.cut(hidden)], -1) + self.turned.sum((0, 1))
        return self.head(self.cast(hidden.double()).float() * self.scale)


def content():
    torch.manual_seed(0)
    made = {f"layers.0.{name}.weight": torch.randn(WIDTH, WIDTH) / 8 for name in "qkv"}
    made |= {f"layers.0.{name}.bias": torch.randn(WIDTH) for name in "qkv"}
    for number in range(EXPERTS):
        made |= {f"layers.1.experts.{number}.{name}.weight": torch.randn(WIDTH, WIDTH) / 8 for name in ("gate", "up")}
    return made | {
        "embed.weight": torch.randn(96, WIDTH),
        "layers.1.wide.weight": torch.randn(2 * WIDTH, WIDTH) / 8,
        "layers.1.turned": torch.randn(4, 2, WIDTH),
        "layers.1.cast.weight": torch.randn(WIDTH, WIDTH) / 8,
        "scale": torch.tensor(0.5),
    }


def seated(module, tensors):
    """Put tensors, lazy or not, where a loader that fuses would."""

    def parameter(tensor):
        return nn.Parameter(tensor, requires_grad=False)

    parts = [f"layers.0.{name}" for name in "qkv"]
    module.qkv.weight = parameter(torch.cat([tensors[f"{part}.weight"] for part in parts]))
    module.qkv.bias = parameter(torch.cat([tensors[f"{part}.bias"] for part in parts]))
    experts = [
        torch.cat([tensors[f"layers.1.experts.{number}.{name}.weight"] for name in ("gate", "up")])
        for number in range(EXPERTS)
    ]
    module.experts = parameter(torch.stack(experts))
    module.cut.weight = parameter(tensors["layers.1.wide.weight"][WIDTH : WIDTH + WIDTH // 2])
    module.turned = parameter(tensors["layers.1.turned"].transpose(0, 1).contiguous())
    module.cast.weight = parameter(tensors["layers.1.cast.weight"].to(torch.float64) * 1.0)  # computed
    module.scale = tensors["scale"]
    module.embed.weight = module.head.weight = parameter(tensors["embed.weight"])
    return module


@pytest.fixture
def path(tmp_path):
    save_file(content(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def reference():
    return seated(Fused("cpu"), content())


def start(path, *, verify=False):
    module = Fused("meta")
    with streamload.open(path) as checkpoint:
        lazy = lazy_state_dict(checkpoint)
        seated(module, lazy)
        assert not lazy["scale"]._source.names_read
        loading = adopt(module, checkpoint, StreamOptions(debug=True, verify=verify))
        assert lazy["scale"]._source.names_read == ["layers.1.cast.weight"]
    return module, loading


def ids():
    return torch.arange(24).view(2, 12)


def check(module, reference):
    found = dict(module.state_dict(keep_vars=True))
    for name, tensor in reference.state_dict().items():
        assert torch.equal(found[name], tensor), name
        assert found[name].stride() == tensor.stride()
        assert found[name].__dict__ == {}
    assert {type(each) for each in module.parameters()} == {nn.Parameter}
    assert type(module.scale) is torch.Tensor
    assert module.head.weight is module.embed.weight
    assert not any(isinstance(each, LazyTensor) for each in found.values())


def test_it_computes_while_it_arrives(path, reference):
    module, loading = start(path)
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))
    loading.wait(60)
    check(module, reference)
    assert not any(tensor.requires_grad for tensor in module.parameters())


def test_each_part_is_read_once_and_what_is_cut_off_is_not(path):
    module, loading = start(path)
    loading.wait(60)
    streamed = sum(each.nbytes for each in module.state_dict().values()) - module.cast.weight.nbytes
    assert loading.stats().bytes_total == streamed - module.embed.weight.nbytes  # the state dict has it twice


def test_it_sleeps_and_wakes(path, reference):
    module, loading = start(path)
    loading.wait(60)
    before = dict(module.named_parameters())
    loading.sleep()
    with pytest.raises(StreamClosedError, match="wake"):
        module(ids())
    loading.wake()
    with torch.no_grad():
        assert torch.equal(module(ids()), reference(ids()))
    loading.wait(60)
    check(module, reference)
    assert all(before[name] is each for name, each in module.named_parameters())


def test_what_was_written_to_does_not_sleep(path):
    module, loading = start(path)
    loading.wait(60)
    with torch.no_grad():
        module.experts.zero_()
    with pytest.raises(RuntimeError, match="experts is no longer as it was loaded"):
        loading.sleep()


def flip(path, name):
    with open_checkpoint(path) as checkpoint:
        at = checkpoint[name].start
    with path.open("r+b") as file:
        file.seek(at)
        value = file.read(1)[0]
        file.seek(at)
        file.write(bytes([value ^ 1]))


def test_parts_are_compared_with_the_manifest(path, reference, caplog):
    make_manifest(path)
    with caplog.at_level(logging.WARNING, logger="streamload"):
        module, loading = start(path, verify=True)
        loading.wait(60)
    check(module, reference)
    (warning,) = [each.getMessage() for each in caplog.records if "cannot be compared" in each.getMessage()]
    assert "layers.1.wide.weight" in warning  # the only one that is not read whole
    assert warning.startswith("1 tensors")


@pytest.mark.parametrize("name", ["layers.0.k.weight", "layers.1.experts.1.up.weight", "layers.1.turned", "scale"])
def test_a_wrong_part_fails_the_load(path, name):
    make_manifest(path)
    flip(path, name)
    module, loading = start(path, verify=True)
    with pytest.raises(ChecksumError, match=name):
        loading.wait(60)
    with pytest.raises(ChecksumError):
        module(ids())


def test_what_is_computed_is_compared_too(path):
    make_manifest(path)
    flip(path, "layers.1.cast.weight")
    with pytest.raises(ChecksumError, match=r"layers\.1\.cast\.weight"):
        start(path, verify=True)


def test_a_file_that_is_cut_off_fails_the_load(path):
    module = Fused("meta")
    with streamload.open(path) as checkpoint:
        seated(module, lazy_state_dict(checkpoint))
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        module.cast.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH, dtype=torch.float64))
        with pytest.raises(SourceError, match=r"model\.safetensors"):
            load(module, checkpoint)


def load(module, checkpoint):
    adopt(module, checkpoint, None).wait(60)


def test_a_file_that_is_cut_off_while_it_arrives_fails_every_use(path, stalled_engine):
    module = Fused("meta")
    with streamload.open(path) as checkpoint:
        lazy = lazy_state_dict(checkpoint)
        seat = Seat(nn.Parameter(torch.empty(8 * WIDTH, WIDTH, device="meta")), [(module, "experts")], ["experts"])
        source = assemble(torch.cat([lazy[f"layers.0.{name}.weight"] for name in "qkvqkvqk"]))
        other = Seat(module.embed.weight, [(module.embed, "weight")], ["embed.weight"])
        with path.open("r+b") as file:
            file.truncate(checkpoint["layers.0.k.weight"].start)
        with pytest.raises(SourceError, match=r"model\.safetensors"):
            stream_seats(
                [(seat, source), (other, checkpoint["embed.weight"])],
                checkpoint,
                torch.device("cpu"),
                engine=stalled_engine,
            ).wait(60)


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="torch before 2.8 has no float4")
def test_small_floats_arrive(tmp_path):
    raw = torch.arange(256, dtype=torch.uint8).view(8, 32)
    held = {
        "four": raw.clone().view(torch.float4_e2m1fn_x2),
        "eight": raw.view(torch.float8_e4m3fn),
        "scale": raw[:, 0].float(),
    }
    save_file(held, tmp_path / "small.safetensors")
    module = nn.Module()
    with streamload.open(tmp_path / "small.safetensors") as checkpoint:
        lazy = lazy_state_dict(checkpoint)
        for name, tensor in lazy.items():
            module.register_buffer(name, tensor)
        module.register_buffer("rows", torch.cat([lazy["four"][4:], lazy["four"][:4]]))
        module.register_buffer("bytes", lazy["eight"].view(torch.uint8)[2:4])
        module.register_buffer("real", lazy["eight"].float() * lazy["scale"][:, None])
        adopt(module, checkpoint, StreamOptions(debug=True)).wait(60)
    assert torch.equal(module.four.view(torch.uint8), raw)
    assert module.four.dtype == module.rows.dtype == torch.float4_e2m1fn_x2
    assert torch.equal(module.rows.view(torch.uint8), raw.roll(4, 0))
    assert torch.equal(module.bytes, raw[2:4])
    assert torch.equal(module.real.nan_to_num(), (held["eight"].float() * held["scale"][:, None]).nan_to_num())


def test_what_cannot_be_computed_ends_the_stream(path):
    module = Fused("meta")
    with streamload.open(path) as checkpoint, streamload.open(path) as closed:
        seated(module, lazy_state_dict(checkpoint))
        module.cast.weight = nn.Parameter(lazy_state_dict(closed)["layers.1.cast.weight"].double() * 1.0)
        closed.close()
        with pytest.raises(StreamClosedError):
            adopt(module, checkpoint, None)


def test_nothing_lazy_is_nothing_to_do(path, reference):
    with streamload.open(path) as checkpoint:
        assert adopt(reference, checkpoint, None).done
