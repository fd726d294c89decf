"""What touches a streamed weight outside its module's forward gets right bytes of its own, or a refusal."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import numpy
import pytest
import torch
from torch import nn
from torch.nn import Parameter

import streamload
from streamload.torch import save_model
from streamload.torch._streamed_gate import StreamedGate

from .shared import Stack, ids, on_meta, run, saved, streamed, streamed_names

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory", "hostile")]


@pytest.fixture
def pair(stack):
    """The resident model and the streamed one, between two passes."""
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    run(module, ids())
    loading.wait(60)
    yield reference, module
    assert torch.equal(run(module, ids()), run(reference, ids()))
    loading.close()


def save(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return torch.load(io.BytesIO(file.getvalue()))


def save_whole(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False).state_dict()


def in_another_thread(model):
    found = []
    thread = threading.Thread(target=lambda: found.extend(p.detach() for p in model.parameters()))
    thread.start()
    thread.join()
    return found


READS = {
    "state_dict": lambda model: model.state_dict(),
    "deepcopy": lambda model: copy.deepcopy(model).state_dict(),
    "deepcopy of one": lambda model: [copy.deepcopy(p) for p in model.parameters()],
    "copy of one": lambda model: [copy.copy(p) for p in model.parameters()],
    "pickle": lambda model: pickle.loads(pickle.dumps(model.state_dict())),
    "pickle of one": lambda model: [pickle.loads(pickle.dumps(p)) for p in model.parameters()],
    "torch.save": save,
    "torch.save of the module": save_whole,
    "numpy": lambda model: [torch.from_numpy(p.detach().numpy()) for p in model.parameters()],
    "array": lambda model: [torch.from_numpy(numpy.asarray(p.detach())) for p in model.parameters()],
    "dlpack": lambda model: [torch.from_dlpack(p.detach()) for p in model.parameters()],
    "data": lambda model: [p.data for p in model.parameters()],
    "sum": lambda model: [p.sum() for p in model.parameters()],
    "vector": lambda model: nn.utils.parameters_to_vector(model.parameters()),
    "foreach": lambda model: torch._foreach_add([p.detach() for p in model.parameters()], 1),
    "stack": lambda model: [torch.stack([p, p]) for p in model.parameters()],
    "index": lambda model: [p[0] for p in model.parameters()],
    "to bf16": lambda model: [p.to(torch.bfloat16) for p in model.parameters()],
    "new Parameter": lambda model: [Parameter(p) + 0 for p in model.parameters()],
    "a layer's weights in a function": lambda model: nn.functional.linear(torch.ones(2, 48), model.layers[2].up.weight),
    "a layer's part alone": lambda model: model.layers[2].up(torch.ones(2, 48)),
    "item": lambda model: torch.tensor([p.flatten()[0].item() for p in model.parameters()]),
    "another thread": in_another_thread,
    "inference mode": lambda model: torch.inference_mode()(lambda: [p * 2 for p in model.parameters()])(),
}


def flatten(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in (value.values() if isinstance(value, dict) else value) for tensor in flatten(item)]


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_read_outside_gives_right_values_in_memory_of_their_own(read, pair):
    reference, module = pair
    with torch.no_grad():
        got, expected = flatten(read(module)), flatten(read(reference))
    assert len(got) == len(expected)
    run(module, ids())  # slots are spoilt, filled and spoilt again
    for one, other in zip(got, expected, strict=True):
        assert not isinstance(one, StreamedGate)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        assert one.data_ptr()


def test_a_copy_of_the_module_is_an_ordinary_one(pair):
    reference, module = pair
    twin = copy.deepcopy(module)
    assert {type(p) for p in twin.parameters()} == {Parameter}
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in reference.parameters()]
    twin(ids()).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    twin.to(torch.float64)


def test_a_copy_keeps_what_others_set_on_a_weight(pair):
    _, module = pair
    weight = module.layers[3].up.weight
    weight.note = ["kept"]
    assert copy.deepcopy(weight).note == ["kept"]
    assert copy.deepcopy(weight).note is not weight.note


def test_saving_and_reading_gives_the_file_again(pair, tmp_path):
    reference, module = pair
    save_model(module, tmp_path / "again.safetensors")
    with streamload.open(tmp_path / "again.safetensors") as checkpoint:
        assert set(checkpoint) == set(reference.state_dict())


WRITES = {
    "fill_": lambda p: p.fill_(1),
    "copy_": lambda p: p.copy_(torch.ones_like(p)),
    "init": lambda p: nn.init.normal_(p),
    "+=": lambda p: p.__iadd__(1),
    "[]=": lambda p: p.__setitem__(0, 1),
    "out": lambda p: torch.add(torch.ones_like(p), 1, out=p),
    "out tuple": lambda p: torch.max(torch.ones(1, *p.shape), 0, out=(p, torch.empty(p.shape, dtype=torch.long))),
    "data": lambda p: setattr(p, "data", torch.ones_like(p)),
    "set_": lambda p: p.set_(torch.ones_like(p)),
    "resize_": lambda p: p.resize_(1),
    "data_ptr": lambda p: p.data_ptr(),
    "share": lambda p: p.share_memory_(),
    "foreach": lambda p: torch._foreach_add_([p], 1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_is_refused(write, pair):
    _, module = pair
    with torch.no_grad(), pytest.raises(RuntimeError, match="streamed"):
        write(module.layers[3].up.bias)


def test_a_write_inside_the_forward_is_refused_too(stack):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    layer = module.layers[3]
    layer.down.register_forward_pre_hook(lambda part, args: part.weight.mul_(2))
    with pytest.raises(RuntimeError, match="read-only"):
        run(module, ids())
    loading.close()


CONVERSIONS = {
    "bf16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "meta": lambda model: model.to("meta"),
    "to_empty": lambda model: model.to_empty(device="cpu"),
    "a block": lambda model: model.layers[1].to(torch.bfloat16),
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS.keys())
def test_a_conversion_is_refused_before_anything_is_converted(convert, pair):
    _, module = pair
    with pytest.raises(RuntimeError, match="streamed"):
        convert(module)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_a_conversion_to_what_it_is_changes_nothing(pair):
    _, module = pair
    before = [id(p) for p in module.parameters()]
    assert module.to("cpu").float().to(torch.float32).cpu() is module
    assert [id(p) for p in module.parameters()] == before


def test_metadata_reads_nothing(stack, hostile):
    _, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    loading.wait(60)
    loading._streamed().copy_of = None  # would fail
    names = streamed_names(module)
    assert names
    for name in names:
        weight = module.get_parameter(name)
        assert isinstance(weight, Parameter)
        assert (weight.numel() * weight.element_size(), weight.is_meta, weight.requires_grad) == (
            weight.nbytes,
            False,
            True,
        )
    module.requires_grad_(False)
    assert not any(p.requires_grad for p in module.parameters())
    assert hostile[0].fills == 0
    loading.close()


def test_gradients_are_refused_with_what_to_do(stack):
    reference, path, least = stack
    module = on_meta(Stack)
    loading = streamed(module, path, least)
    with pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        module(ids())
    module.requires_grad_(False)
    assert torch.equal(module(ids()), run(reference, ids()))
    with pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        module.layers[2](torch.ones(2, 48, requires_grad=True))
    with torch.inference_mode():
        assert torch.equal(module(ids()), run(reference, ids()))
    loading.close()


def test_hooks_on_a_block_see_right_weights(pair):
    reference, module = pair
    seen = []
    handles = [
        module.layers[1].register_forward_pre_hook(lambda layer, args: seen.append(layer.up.weight.detach().sum())),
        module.layers[1].up.register_forward_hook(lambda part, args, out: seen.append(part.weight.detach().sum())),
        module.layers[1].register_forward_hook(lambda layer, args, out: seen.append(layer.up.weight.detach().sum())),
    ]
    run(module, ids())
    assert [float(value) for value in seen] == [float(reference.layers[1].up.weight.detach().sum())] * 3
    for handle in handles:
        handle.remove()


def test_signature_and_words_of_the_forward_stay(pair):
    import inspect

    reference, module = pair
    assert inspect.signature(module.forward) == inspect.signature(reference.forward)
    assert module.forward.__name__ == "forward"
    assert type(module.layers[1]) is type(reference.layers[1])
    assert not module.layers[1]._forward_pre_hooks
    assert not module.layers[1]._forward_hooks


def test_a_tied_weight_stays_resident_and_one_object(tmp_path):
    class Tied(Stack):
        def __init__(self):
            super().__init__()
            self.head.weight = self.embed.weight

    reference, path = saved(tmp_path, Tied)
    module = on_meta(Tied)
    loading = streamed(module, path, 80_000)
    assert module.head.weight is module.embed.weight
    assert "embed.weight" not in streamed_names(module)
    assert torch.equal(run(module, ids()), run(reference, ids()))
    loading.close()
