"""`fill` puts every byte where it belongs on the device, and returns when every stream may use it."""

from __future__ import annotations

import pytest
import torch

from streamload.torch import Destination, fill

NAME = "model.layers.3.mlp.up_proj.weight"
HEAD = "lm_head.weight"
ALL = slice(None)


def test_a_whole_checkpoint_into_existing_tensors(place, checkpoint_path, expected, same_bits):
    tensors = {name: torch.full_like(tensor, 7, device=place.torch_device) for name, tensor in expected.items()}
    with place.engine() as engine:
        stats = fill(checkpoint_path, tensors, engine=engine)
    assert all(same_bits(tensors[name], expected[name]) for name in expected)
    assert stats.bytes_total == stats.bytes_resident == sum(tensor.nbytes for tensor in expected.values())


@pytest.mark.parametrize("ranks", [2, 8])
def test_columns_and_rows_of_each_rank(place, ranks, checkpoint_path, expected, same_bits):
    whole = expected[NAME]
    height, width = whole.shape[0] // ranks, whole.shape[1] // ranks
    fused = torch.zeros(ranks, whole.shape[0], width + 3, device=place.torch_device)
    stacked = torch.zeros(whole.shape, device=place.torch_device)
    places = [
        Destination(NAME, fused[rank, :, 1:-2], (ALL, slice(rank * width, rank * width + width)))
        for rank in range(ranks)
    ]
    places += [
        Destination(NAME, stacked[rank * height : (rank + 1) * height], (slice(rank * height, (rank + 1) * height),))
        for rank in range(ranks)
    ]
    with place.engine() as engine:
        fill(checkpoint_path, places, engine=engine)
    assert same_bits(torch.cat([*fused[:, :, 1:-2]], dim=1), whole)
    assert same_bits(stacked, whole)
    assert fused[:, :, [0, -2, -1]].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_casts_and_transposes(place, dtype, checkpoint_path, expected, same_bits):
    cast = torch.zeros(expected[NAME].shape, dtype=dtype, device=place.torch_device)
    across = torch.zeros(expected[HEAD].t().shape, device=place.torch_device)
    with place.engine() as engine:
        fill(checkpoint_path, [Destination(NAME, cast), Destination(HEAD, across.t())], engine=engine)
    assert same_bits(cast, expected[NAME].to(place.torch_device).to(dtype))
    assert same_bits(across, expected[HEAD].t())


@pytest.mark.needs_cuda
def test_on_return_another_stream_sees_every_byte(checkpoint_path, expected, same_bits):
    straight = torch.zeros(expected[NAME].shape, device="cuda:0")
    cast = torch.zeros(expected[HEAD].shape, dtype=torch.float64, device="cuda:0")
    other = torch.cuda.Stream()
    torch.cuda.synchronize()
    fill(checkpoint_path, {NAME: straight, HEAD: cast})
    with torch.cuda.stream(other):
        copies = straight.clone(), cast.clone()
    torch.cuda.synchronize()
    assert same_bits(copies[0], expected[NAME])
    assert same_bits(copies[1], expected[HEAD].double())


@pytest.mark.needs_cuda
def test_filling_waits_for_what_the_current_stream_has_queued(checkpoint_path, expected, same_bits):
    target = torch.zeros(expected[NAME].shape, device="cuda:0")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        before = target.clone()
        fill(checkpoint_path, {NAME: target})
        after = target.clone()
    torch.cuda.synchronize()
    assert before.eq(0).all()
    assert same_bits(after, expected[NAME])


@pytest.mark.needs_cuda
def test_casts_take_little_device_memory(checkpoint_path, expected):
    tensors = {
        name: torch.zeros(tensor.shape, dtype=torch.float64, device="cuda:0") for name, tensor in expected.items()
    }
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fill(checkpoint_path, tensors)
    assert torch.cuda.max_memory_allocated() - before <= 64 << 20


@pytest.mark.needs_cuda
def test_both_kinds_of_memory_in_one_call(checkpoint_path, expected, same_bits):
    tensors = {
        name: torch.zeros_like(tensor, device="cuda:0" if number % 2 else "cpu")
        for number, (name, tensor) in enumerate(expected.items())
    }
    stats = fill(checkpoint_path, tensors)
    assert all(same_bits(tensors[name], expected[name]) for name in expected)
    assert stats.bytes_resident == sum(tensor.nbytes for tensor in expected.values())
