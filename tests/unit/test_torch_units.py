"""A module is cut into units by its blocks; what no forward speaks for is fixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import streamload
from streamload.torch import save_model
from streamload.torch._seats import seat
from streamload.torch._units import cut_into_units, padded

pytestmark = pytest.mark.slow  # torch itself


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)
        self.up = nn.Linear(16, 32)

    def forward(self, x):
        return x


class Model(nn.Module):
    """What tests change one thing of."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(64, 16)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 64)

    def forward(self, x):
        return x


def cut(tmp_path, make):
    save_model(make(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        module = make()
    with streamload.open(tmp_path / "model.safetensors") as checkpoint:
        seating = seat(module, checkpoint, torch.device("cpu"), strict=True)
        result = cut_into_units(module, seating.taken, checkpoint)
    covered = [id(found) for unit in result.units for found, _ in unit.taken] + [id(found) for found, _ in result.fixed]
    assert sorted(covered) == sorted(id(found) for found, _ in seating.taken)  # each once
    return module, result


def paths(result):
    return [unit.path for unit in result.units]


def fixed(result):
    return [name for found, _ in result.fixed for name in found.names]


def test_blocks_and_owners_of_loose_tensors_are_units(tmp_path):
    module, result = cut(tmp_path, Model)
    assert paths(result) == ["embed", "layers.0", "layers.1", "layers.2", "head"]
    assert [unit.module for unit in result.units] == [module.embed, *module.layers, module.head]
    assert fixed(result) == []
    assert [unit.nbytes for unit in result.units] == [
        sum(padded(p.nbytes) for p in unit.module.parameters()) for unit in result.units
    ]


def test_tied_weights_are_fixed(tmp_path):
    class Tied(Model):
        def __init__(self):
            super().__init__()
            self.head.weight = self.embed.weight

    _, result = cut(tmp_path, Tied)
    assert fixed(result) == ["embed.weight", "head.weight"]
    assert paths(result) == ["layers.0", "layers.1", "layers.2"] + (["head"] if "head" in paths(result) else [])


def test_a_module_that_two_blocks_share_is_fixed(tmp_path):
    class Shared(Model):
        def __init__(self):
            super().__init__()
            self.layers[2].up = self.layers[0].up

    _, result = cut(tmp_path, Shared)
    assert fixed(result) == ["layers.0.up.weight", "layers.2.up.weight", "layers.0.up.bias", "layers.2.up.bias"]


def test_a_block_at_several_places_is_one_unit(tmp_path):
    class Repeated(Model):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([self.layers[0]] * 3)

    module, result = cut(tmp_path, Repeated)
    assert len(result.units) == 3
    assert module.layers[0] in [unit.module for unit in result.units]


def test_what_a_container_owns_beside_units_is_fixed(tmp_path):
    class Loose(Model):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 16))
            self.scales = nn.ParameterList(nn.Parameter(torch.zeros(16, 16)) for _ in range(2))

    _, result = cut(tmp_path, Loose)
    assert fixed(result) == ["token", "scales.0", "scales.1"]
    assert "layers.1" in paths(result)


def test_buffers_that_modules_update_are_fixed(tmp_path):
    class Normed(Block):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(16)

    class Model2(Model):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Normed() for _ in range(3))

    _, result = cut(tmp_path, Model2)
    assert set(fixed(result)) == {
        f"layers.{number}.norm.{name}"
        for number in range(3)
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_a_unit_of_next_to_nothing_is_fixed(tmp_path):
    class Wide(Model):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4096, 16)
            self.head = nn.LayerNorm(16)

    _, result = cut(tmp_path, Wide)
    assert fixed(result) == ["head.weight", "head.bias"]


def test_real_tensors_are_fixed(tmp_path):
    save_model(Model(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        module = Model()
    module.embed = nn.Embedding(64, 16)
    with streamload.open(tmp_path / "model.safetensors") as checkpoint:
        seating = seat(module, checkpoint, torch.device("cpu"), strict=True)
        result = cut_into_units(module, seating.taken, checkpoint)
    assert fixed(result) == ["embed.weight"]


def test_a_layer_that_is_most_of_the_model_is_cut_again(tmp_path):
    class Wrapped(nn.Module):  # as sentence-transformers does
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(Model())

    _, result = cut(tmp_path, Wrapped)
    assert paths(result) == ["body.0.embed", "body.0.layers.0", "body.0.layers.1", "body.0.layers.2", "body.0.head"]


def test_attention_that_never_calls_its_projection_is_one_unit(tmp_path):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2)
            self.other = nn.Linear(16, 100)

        def forward(self, x):
            return x

    _, result = cut(tmp_path, Bare)
    assert paths(result) == ["attention", "other"]
