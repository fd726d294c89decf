"""A module gives right results while its weights are in flight, and is an ordinary one afterwards."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import streamload
from streamload._checkpoint import Checkpoint
from streamload._engine import CopyEngine, shared_engine
from streamload._native import HostDevice
from streamload.errors import StreamClosedError
from streamload.testing import FaultySource
from streamload.torch import _memory, load_file, stream_module
from streamload.torch._module_load import ModuleLoad

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]


def ids():
    return torch.arange(24).view(2, 12)


def start(module, path, engine, *, strict=True):
    """Start filling a module; the checkpoint is closed at once."""
    with streamload.open(path) as checkpoint:
        return stream_module(module, checkpoint, "cpu", strict=strict, engine=engine)


def is_arriving(tensor):
    return type(tensor).__name__.startswith("Arriving")


def assert_ordinary(module, reference):
    """Nothing of a load is left, and every byte is right."""
    for name, parameter in module.named_parameters():
        assert type(parameter) is Parameter, name
        assert parameter.__dict__ == {}, name
        assert parameter.requires_grad == reference.get_parameter(name).requires_grad
    for name, buffer in module.named_buffers():
        assert type(buffer) is torch.Tensor, name
        assert buffer.__dict__ == {}, name
    for owner in module.modules():
        assert not owner._forward_pre_hooks
        assert not owner._forward_hooks
    for (name, got), (_, expected) in zip(module.state_dict().items(), reference.state_dict().items(), strict=True):
        assert torch.equal(got, expected), name
    assert not [thread.name for thread in threading.enumerate() if "streamload" in thread.name]


def no_grad(use):
    def run(model):
        with torch.no_grad():
            return use(model)

    return run


def in_two_threads(model):
    results = {}
    threads = [threading.Thread(target=lambda n=n: results.update({n: no_grad(forward)(model)})) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results[0], results[1]


def forward(model):
    return model(ids())


def train_step(model):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(ids()).square().mean().backward()
    optimizer.step()
    return model.state_dict()


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model.head, backend="eager", fullgraph=True)(torch.ones(2, 48))


def save(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return torch.load(io.BytesIO(file.getvalue()))


def inference(model):
    with torch.inference_mode():
        return model(ids()).clone()


USES = {
    "forward": no_grad(forward),
    "inference_mode": inference,
    "backward": lambda model: [model(ids()).sum().backward(), [p.grad for p in model.parameters()]][1],
    "train step": train_step,
    "last layer alone": lambda model: model.head(torch.ones(2, 48)),
    "two threads": in_two_threads,
    "state_dict": lambda model: model.state_dict(),
    "to bf16": lambda model: model.to(torch.bfloat16).state_dict(),
    "half of one": lambda model: model.head.half().state_dict(),
    "deepcopy": lambda model: copy.deepcopy(model).state_dict(),
    "pickle": lambda model: pickle.loads(pickle.dumps(model.state_dict())),
    "torch.save": save,
    "numpy": lambda model: [torch.from_numpy(p.detach().numpy()) for p in model.parameters()],
    "cat": lambda model: torch.cat([p.view(-1) for p in model.parameters()]),
    "vector": lambda model: nn.utils.parameters_to_vector(model.parameters()),
    "foreach": lambda model: torch._foreach_add([p.detach() for p in model.parameters()], 1),
    "functional_call": lambda model: torch.func.functional_call(model, dict(model.named_parameters()), (ids(),)),
    "copy_": no_grad(lambda model: [p.copy_(torch.ones_like(p)) for p in model.parameters()]),
    "init": lambda model: [nn.init.ones_(p) for p in model.parameters()],
    "in place": no_grad(lambda model: [p.mul_(2) for p in model.parameters()]),
    "load_state_dict": lambda model: (model.load_state_dict(model.state_dict()), model.state_dict())[1],
    "new Parameter": lambda model: [Parameter(p) for p in model.parameters()],
    "compile": compiled,
    "clip": lambda model: nn.utils.get_total_norm([p.detach() for p in model.parameters()]),
}


def flatten(value):
    """The tensors in a result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in flatten(item)]


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_use_in_flight_gives_what_the_loaded_model_gives(use, build, reference, model_path, slow_engine, monkeypatch):
    used = threading.Event()  # until then the load is in flight, however slow this machine
    order = ModuleLoad.order
    monkeypatch.setattr(ModuleLoad, "order", lambda *args: (used.set(), order(*args))[1])
    module = build("meta")
    with streamload.open(model_path) as opened:
        shards = [replace(shard, source=FaultySource(shard.source, hold={0: used})) for shard in opened.shards]
        checkpoint = Checkpoint(opened.url, shards, dict(opened))
        loading = stream_module(module, checkpoint, "cpu", engine=slow_engine)
        assert is_arriving(module.norm.weight)
        assert not loading.done
        got = flatten(use(module))
        assert not any(is_arriving(one) for one in got)
        loading.wait(60)
    expected = flatten(use(copy.deepcopy(reference)))
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_nothing_is_left_when_all_is_resident(build, reference, model_path, slow_engine):
    module = build("meta")
    loading = start(module, model_path, slow_engine)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        first = module(ids())
    addresses = {name: parameter.data_ptr() for name, parameter in parameters.items()}
    loading.wait(60)
    assert loading.done
    assert loading.progress() == 1.0
    assert_ordinary(module, reference)
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == addresses
    assert all(module.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert all(address % 256 == 0 for address in addresses.values())
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in module.parameters())
    assert torch.equal(first, reference(ids()))
    assert loading.stats().bytes_read == loading.stats().bytes_total


def test_a_kept_handle_keeps_neither_engine_nor_memory(build, model_path, monkeypatch):
    blocks = []

    def watched_blocks(sizes):
        made = make_host_blocks(sizes)
        blocks.extend(map(weakref.ref, made))
        return made

    make_host_blocks = _memory.make_host_blocks
    monkeypatch.setattr(_memory, "make_host_blocks", watched_blocks)
    engine = shared_engine("cpu", streamload.StreamOptions())
    module = build("meta")
    with streamload.open(model_path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu")
    loading.wait(60)
    engine = weakref.ref(engine)
    gc.collect()
    assert engine() is None
    assert all(block() is not None for block in blocks)
    del module
    gc.collect()
    assert [block() for block in blocks] == [None]
    assert loading.progress() == 1.0


def test_nobody_has_to_wait(build, reference, model_path, slow_engine):
    module = build("meta")
    loading = weakref.ref(start(module, model_path, slow_engine))
    gc.collect()
    assert loading() is None
    for thread in threading.enumerate():
        if thread.name == "streamload-watch":
            thread.join(60)
    assert_ordinary(module, reference)


def test_dropping_the_module_in_flight_is_harmless(build, model_path, slow_engine):
    module = build("meta")
    loading = start(module, model_path, slow_engine)
    weight = module.norm.weight
    del module
    gc.collect()
    assert torch.equal(weight.detach(), load_file(model_path)["norm.weight"])
    loading.wait(60)


def test_metadata_and_requires_grad_do_not_wait(build, model_path, stalled_engine):
    module = build("meta")
    loading = start(module, model_path, stalled_engine)
    module.requires_grad_(False)
    assert sum(p.numel() * p.element_size() for p in module.parameters()) > 0
    assert not [p for p in module.parameters() if p.requires_grad or p.is_meta]
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(is_arriving(p) for p in module.parameters())
    loading.close()


def test_ties_stay_one_object_and_either_name_will_do(build, reference, model_path, slow_engine):
    assert "head.weight" not in load_file(model_path) or "embed.weight" not in load_file(model_path)
    module = build("meta")
    loading = start(module, model_path, slow_engine)
    assert module.head.weight is module.embed.weight
    loading.wait(60)
    assert_ordinary(module, reference)


def test_of_a_tied_tensors_two_names_in_the_file_the_last_wins_as_in_load_state_dict(build, tmp_path, slow_engine):
    state = {name: torch.zeros_like(tensor) for name, tensor in build().state_dict().items()}
    state["head.weight"] = torch.ones_like(state["head.weight"])
    streamload.torch.save_file(state, tmp_path / "both.safetensors")
    module, usual = build("meta"), build()
    usual.load_state_dict(state)
    loading = start(module, tmp_path / "both.safetensors", slow_engine)
    assert torch.equal(module.embed.weight, usual.embed.weight)
    loading.wait(60)
    assert loading.stats().bytes_read < sum(tensor.nbytes for tensor in state.values())


def test_real_tensors_are_filled_where_they_are(build, reference, model_path, slow_engine):
    module = build()
    before = {name: (tensor, tensor.data_ptr()) for name, tensor in module.state_dict(keep_vars=True).items()}
    loading = start(module, model_path, slow_engine)
    assert is_arriving(module.norm.weight)
    assert torch.equal(no_grad(forward)(module), no_grad(forward)(reference))
    loading.wait(60)
    assert_ordinary(module, reference)
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert before[name] == (tensor, tensor.data_ptr()) or before[name][0] is tensor
        assert before[name][1] == tensor.data_ptr()


def test_attributes_and_requires_grad_are_kept(build, model_path, slow_engine):
    module = build("meta")
    module.head.weight.note = "kept"
    module.norm.bias.requires_grad_(False)
    loading = start(module, model_path, slow_engine)
    loading.wait(60)
    assert module.embed.weight.__dict__ == {"note": "kept"}
    assert not module.norm.bias.requires_grad
    assert module.norm.weight.requires_grad


def test_a_waiter_is_served_next(build, model_path):
    options = streamload.StreamOptions(chunk_bytes=64 << 10, staging_bytes=128 << 10, read_threads=1)
    with CopyEngine(HostDevice(link_bytes_per_second=4e5, poison=True), options) as engine:
        module = build("meta")
        loading = start(module, model_path, engine)
        module.norm.weight.sum()  # the last but one layer
        assert not is_arriving(module.norm.bias)  # its group is there
        assert is_arriving(module.rnn.weight_ih_l0)
        assert loading.progress() < 1
        loading.close()
    assert all(is_arriving(p) for p in module.parameters())  # closed for good, whatever was open


def test_close_and_cancel_make_the_module_unusable_and_can_be_repeated(build, model_path, stalled_engine):
    module = build("meta")
    loading = start(module, model_path, stalled_engine)
    for _ in range(2):
        loading.cancel()
        loading.close()
    for use in (forward, lambda m: m.state_dict(), copy.deepcopy, lambda m: m.to(torch.bfloat16)):
        with pytest.raises(StreamClosedError):
            use(module)
    with pytest.raises(StreamClosedError):
        loading.wait()
    assert all(is_arriving(p) for p in module.parameters())


def test_leaving_the_block_cancels_what_has_not_arrived(build, model_path, stalled_engine):
    module = build("meta")
    with start(module, model_path, stalled_engine) as loading:
        pass
    with pytest.raises(StreamClosedError):
        loading.wait()


def test_a_module_whose_load_was_cancelled_can_be_filled_again(
    build, reference, model_path, slow_engine, stalled_engine
):
    module = build("meta")
    start(module, model_path, stalled_engine).close()
    loading = start(module, model_path, slow_engine)
    assert torch.equal(no_grad(forward)(module), no_grad(forward)(reference))
    loading.wait(60)
    assert_ordinary(module, reference)


def test_a_module_in_flight_is_not_filled_twice(build, model_path, stalled_engine):
    module = build("meta")
    loading = start(module, model_path, stalled_engine)
    with pytest.raises(RuntimeError, match="still being filled"):
        start(module, model_path, stalled_engine)
    loading.close()


def test_wait_times_out_and_the_load_goes_on(build, reference, model_path, slow_engine):
    module = build("meta")
    loading = start(module, model_path, slow_engine)
    with pytest.raises(TimeoutError):
        loading.wait(0)
    loading.wait(60)
    assert_ordinary(module, reference)


def test_an_engine_closed_in_flight_fails_the_load(build, model_path, stalled_engine):
    module = build("meta")
    loading = start(module, model_path, stalled_engine)
    stalled_engine.close()
    with pytest.raises(StreamClosedError):
        loading.wait(60)
    with pytest.raises(StreamClosedError):
        module(ids())


def test_the_default_engine_serves_without_any_choice(build, reference, model_path):
    module = build("meta")
    with streamload.open(model_path) as checkpoint:
        loading = stream_module(module, checkpoint, "cpu")
    assert torch.equal(no_grad(forward)(module), no_grad(forward)(reference))
    loading.wait(60)
    assert_ordinary(module, reference)
