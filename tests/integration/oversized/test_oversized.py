"""A module that exceeds its device memory computes what the resident one does, and streams exactly what it has to."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

import streamload
from streamload._native import HostDevice
from streamload.errors import StreamClosedError
from streamload.torch import _filling, _memory, _oversized, stream_module

from .shared import (
    Block,
    Stack,
    ids,
    least_budget,
    on_meta,
    run,
    saved,
    streamed,
    streamed_names,
    wait_for,
    whole_budget,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

PASSES = 5


DEVICES = {
    "plain": lambda: HostDevice(poison=True),
    "staged": lambda: HostDevice(poison=True, staged=True),
    "slow link": lambda: HostDevice(poison=True, staged=True, link_bytes_per_second=2e7),
}


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES.keys())
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_every_budget_gives_the_resident_models_values(stack, share, device):
    reference, path, least = stack
    budget = least + int(share * (whole_budget(path) - least))
    module = on_meta(Stack)
    loading = streamed(module, path, budget, device=device())
    expected = run(reference, ids())
    for _ in range(PASSES):
        assert torch.equal(run(module, ids()), expected)
    loading.wait(60)
    total = loading.resident_bytes + loading.streamed_bytes
    assert total == sum(p.nbytes for p in reference.parameters())
    if share == 1.0:
        assert loading.rotation_stats() is None
        assert loading.streamed_bytes == 0
        assert not streamed_names(module)
        assert not [owner for owner in module.modules() if "forward" in owner.__dict__ or "_apply" in owner.__dict__]
    else:
        assert streamed_names(module)
        assert 0 < loading.streamed_bytes <= total
    loading.close()


def test_each_pass_streams_each_byte_once(stack):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least + 40_000)
    stats = loading.rotation_stats()
    assert 1 < stats.slots < stats.units
    for passes in range(1, PASSES + 1):
        assert torch.equal(run(module, ids()), run(reference, ids()))
        # What is ahead of the next pass fills every slot and no more.
        wait_for(lambda count=passes: loading.rotation_stats().fills >= count * stats.units + stats.slots)
    stats = loading.rotation_stats()
    ahead = sum(_streamed_sizes(module)[: stats.slots])
    assert stats.bytes_streamed == stats.bytes_read == PASSES * loading.streamed_bytes + ahead
    assert (stats.passes, stats.demanded_fills, stats.wasted_fills) == (PASSES, 0, 0)
    loading.close()


def _streamed_sizes(module):
    """Bytes of each streamed unit, in the module's order."""
    units = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name in streamed_names(module):
            unit = name.split(".")[1] if name.startswith("layers") else name
            units[unit] = units.get(unit, 0) + tensor.nbytes
    return list(units.values())


def test_a_slot_spoilt_the_moment_it_is_let_go_of_is_never_read(stack, hostile):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    for _ in range(PASSES):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    assert hostile[0].bytes_read == PASSES * loading.streamed_bytes
    assert not any(hostile[0].holders)
    loading.close()


def test_units_of_other_sizes_share_slots_and_keep_their_addresses(tmp_path):
    def make():
        return Stack(8, inner=(96, 200, 24))

    reference, path = saved(tmp_path, make)
    module = on_meta(make)
    seen = [[] for _ in module.layers]

    def note(layer, args, number):
        with torch._C.DisableTorchFunctionSubclass():
            seen[number].append(layer.up.weight.data_ptr())

    loading = streamed(module, path, least_budget(make, path) + 60_000)
    for number, layer in enumerate(module.layers):
        layer.register_forward_pre_hook(lambda layer, args, number=number: note(layer, args, number))
    for _ in range(PASSES):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    assert [len(set(addresses)) for addresses in seen] == [1] * 8
    assert all(address % 256 == 0 for addresses in seen for address in addresses)
    loading.close()


def test_device_memory_holds_blocks_and_slots_together(tmp_path, monkeypatch):
    def make():
        return Stack(10, inner=(96, 160))

    reference, path = saved(tmp_path, make)
    least, whole = least_budget(make, path), whole_budget(path)
    taken = []
    for name in ("place", "allocate"):
        real = getattr(_memory, name)

        def note(*args: object, real=real, **kwargs: object):
            result = real(*args, **kwargs)
            taken.extend(block.nbytes for block in (result.blocks if hasattr(result, "blocks") else [result[1]]))
            return result

        for room in (_memory, _oversized, _filling):
            if hasattr(room, name):
                monkeypatch.setattr(room, name, note)
    for budget in range(least, whole, (whole - least) // 7):
        taken.clear()
        module = on_meta(make)
        loading = streamed(module, path, budget)
        assert torch.equal(run(module, ids()), run(reference, ids()))
        assert sum(taken) <= budget
        assert budget - sum(taken) < least  # and none of it is left unused that another unit could have
        loading.close()


def test_a_budget_too_small_says_what_is_needed_and_that_is_enough(stack):
    reference, path, least = stack
    with pytest.raises(
        ValueError, match=rf"device_memory={least - 1} is too small for Stack.*at least {least} .*layers"
    ):
        streamed(on_meta(Stack), path, least - 1)
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    assert loading.rotation_stats().slots == 1
    assert torch.equal(run(module, ids()), run(reference, ids()))
    loading.close()


ORDERS = {
    "skipped": [[0, 2, 4], [0, 1, 2, 3, 4, 5], [1, 3], [5], []],
    "repeated": [[0, 0, 0, 1, 1, 5], [3, 3, 3, 3], [0, 1, 0, 1, 0, 1]],
    "reordered": [[5, 4, 3, 2, 1, 0], [0, 5, 1, 4, 2, 3], [5, 4, 3, 2, 1, 0]],
    "conditional": [[0, 1, 2], [0, 3, 2], [0, 1, 2], [0, 3, 2], [0, 1, 2]],
}


@pytest.mark.parametrize("schedule", ["native", "worst"])
@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS.keys())
def test_blocks_may_be_skipped_repeated_reordered(stack, orders, schedule, request):
    if schedule == "worst":
        request.getfixturevalue("hostile")
    reference, path, least = stack
    for budget in (least, least + 90_000):
        module = on_meta(Stack)
        loading = streamed(module, path, budget)
        for order in [*orders, *orders]:
            assert torch.equal(run(module, ids(), order), run(reference, ids(), order))
        loading.close()


def test_the_order_of_a_pass_is_learnt_from_the_pass_before(stack, hostile):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    for _ in range(2):
        run(module, ids(), [5, 0, 0, 3])
    units = [0, 6, 1, 1, 4]  # the embedding, then the blocks; the head is too small a model's to be streamed
    (rotation,) = hostile
    order = [unit for unit in rotation.orders[-1] if unit <= 6]
    assert order == units
    assert len(rotation.orders) == 2
    loading.close()


def test_a_block_shared_by_all_layers_stays_one_unit(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(48, 48)
            block = Block()
            self.layers = nn.ModuleList([block, block, block])
            self.last = nn.Linear(48, 48)

        def forward(self, x):
            x = self.first(x)
            for layer in self.layers:
                x = layer(x)
            return self.last(x)

    reference, path = saved(tmp_path, Shared)
    module = on_meta(Shared)
    loading = streamed(module, path, least_budget(Shared, path))
    x = torch.randn(2, 48)
    for _ in range(PASSES):
        assert torch.equal(run(module, x), run(reference, x))
    assert module.layers[0] is module.layers[2]
    loading.close()


def test_a_block_called_inside_another_block_is_right(tmp_path, hostile):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(4))
            for one, other in zip(self.layers, self.layers[1:], strict=False):
                object.__setattr__(one, "other", other)
                one.forward = lambda x, one=one: one.down(torch.relu(one.up(one.other(x) if one.gate else x))) + x
            for layer in self.layers:
                object.__setattr__(layer, "gate", False)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    reference, path = saved(tmp_path, Outer)
    module = on_meta(Outer)
    loading = streamed(module, path, least_budget(Outer, path))
    x = torch.randn(2, 48)
    for gate in (False, True):
        for model in (reference, module):
            object.__setattr__(model.layers[1], "gate", gate)
        assert torch.equal(run(module, x), run(reference, x))
    assert not any(hostile[0].holders)
    loading.close()


def test_two_passes_in_flight_from_two_threads_are_right(stack):
    reference, path, least = stack
    for budget in (least, least + 50_000):
        module = on_meta(Stack)
        loading = streamed(module, path, budget)
        wrong = []
        inputs = [ids(), ids().flip(1)]
        expected = [run(reference, one) for one in inputs]

        def passes(number, module=module, wrong=wrong, inputs=inputs, expected=expected):
            for _ in range(PASSES):
                if not torch.equal(run(module, inputs[number]), expected[number]):
                    wrong.append(number)

        threads = [threading.Thread(target=passes, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert not wrong
        assert loading.rotation_stats().passes == 2 * PASSES
        loading.close()


def test_dropping_the_module_frees_slots_and_threads(stack, own_threads):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    run(module, ids())
    loading.wait(60)
    streaming = loading._streamed
    del module
    gc.collect()
    assert streaming() is None
    assert loading.rotation_stats() is None
    assert [name for name in own_threads() if "rotat" in name or "host" in name] == []


def test_a_module_streamed_already_is_refused(stack):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    loading.wait(60)
    with streamload.open(path) as checkpoint, pytest.raises(RuntimeError, match="close its ModuleStream"):
        stream_module(module, checkpoint, "cpu")
    loading.close()


def test_a_closed_module_is_unusable_and_can_be_filled_again(stack):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    parameters = dict(module.named_parameters())
    run(module, ids())
    loading.close()
    loading.close()
    with pytest.raises(StreamClosedError):
        run(module, ids())
    with pytest.raises(StreamClosedError):
        module.state_dict()
    assert not [owner for owner in module.modules() if "forward" in owner.__dict__ or "_apply" in owner.__dict__]
    assert all(module.get_parameter(name) is parameter for name, parameter in parameters.items())
    for budget in (least, None):
        loading = streamed(module, path, budget)
        assert torch.equal(run(module, ids()), run(reference, ids()))
        loading.wait(60)
        if budget is not None:
            loading.close()
    assert {type(p) for p in module.parameters()} == {nn.Parameter}


def test_debug_reaches_the_rotation(stack, hostile):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least, debug=True)
    assert hostile[0].debug is True
    loading.close()


def test_debug_gives_the_resident_models_values(stack):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least + 50_000, debug=True)
    for _ in range(PASSES):
        assert torch.equal(run(module, ids()), run(reference, ids()))
    loading.close()
