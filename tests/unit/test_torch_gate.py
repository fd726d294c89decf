"""The gate alone, over a load that says when a group may be seen: on the host at once, on CUDA stream by stream."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import numpy
import pytest
import torch
from torch.nn import Parameter

from streamload.torch._gate import arriving_load, close_gate, open_gate

FILL = 3.0


class FakeLoad:
    """Fill a tensor at the first wait. `resident` False: as on CUDA, other streams still have to wait."""

    def __init__(self, tensor, *, resident=True):
        self.waits = 0
        self.settles = 0
        self.resident = resident
        self.memory = tensor.data

    def order(self, group):
        assert group == 7
        if not self.waits:
            self.memory.fill_(FILL)
        self.waits += 1
        return self.resident

    def settle(self, group):
        self.settles += 1
        self.order(group)


def arriving(*, resident=True, buffer=False, dtype=torch.float32, kind=None):
    values = torch.full((2, 3), float("nan")).to(dtype)
    tensor = values if buffer else Parameter(values, requires_grad=dtype.is_floating_point)
    if kind is not None:
        tensor = torch.Tensor._make_subclass(kind, values, False)
    load = FakeLoad(tensor, resident=resident)
    close_gate(tensor, load, 7)
    assert arriving_load(tensor) is load
    return tensor, load


METADATA = {
    "shape": lambda p: p.shape,
    "size": lambda p: p.size(0),
    "stride": lambda p: p.stride(),
    "dtype": lambda p: p.dtype,
    "device": lambda p: p.device,
    "layout": lambda p: p.layout,
    "numel": lambda p: (p.numel(), p.nelement(), torch.numel(p)),
    "dim": lambda p: (p.dim(), p.ndim, len(p)),
    "bytes": lambda p: (p.nbytes, p.itemsize, p.element_size()),
    "is": lambda p: (p.is_cuda, p.is_cpu, p.is_meta, p.is_sparse, p.is_quantized, p.is_leaf, p.is_nested),
    "is()": lambda p: (p.is_contiguous(), p.is_floating_point(), p.is_complex(), torch.is_floating_point(p)),
    "requires_grad": lambda p: p.requires_grad,
    "requires_grad_": lambda p: p.requires_grad_(False),
    "set requires_grad": lambda p: setattr(p, "requires_grad", False),
    "grad": lambda p: (p.grad, p.grad_fn, setattr(p, "grad", None)),
    "offset": lambda p: p.storage_offset(),
    "type": lambda p: p.type(),
    "hash": lambda p: {p: 1}[p],
    "isinstance": lambda p: (isinstance(p, torch.Tensor), torch.is_tensor(p)),
    "get_device": lambda p: p.get_device(),
    "attribute": lambda p: setattr(p, "note", 1),
    "result_type": lambda p: torch.result_type(p, 1),
    "hook": lambda p: p.register_hook(lambda grad: grad),
}


@pytest.mark.parametrize("ask", METADATA.values(), ids=METADATA.keys())
def test_metadata_does_not_wait(ask):
    tensor, load = arriving()
    ask(tensor)
    assert load.waits == 0
    assert type(tensor).__name__ == "ArrivingParameter"
    assert isinstance(tensor, Parameter)


@pytest.mark.slow  # torch.optim imports half of torch
def test_an_optimizer_is_made_without_waiting():
    tensor, load = arriving()
    torch.optim.AdamW([tensor]).zero_grad()
    assert load.waits == 0


USES = {
    "add": lambda p: p + 1,
    "radd": lambda p: 1 + p,
    "matmul": lambda p: torch.ones(1, 2) @ p,
    "index": lambda p: p[0],
    "index by": lambda p: torch.ones(9)[p.long()],
    "iterate": lambda p: list(p),
    "cat": lambda p: torch.cat([torch.ones(1, 3), p]),
    "stack": lambda p: torch.stack((p, p)),
    "out": lambda p: torch.add(torch.ones(2, 3), 1, out=p.detach()),
    "kwargs": lambda p: torch.nn.functional.linear(torch.ones(3), weight=p),
    "foreach": lambda p: torch._foreach_add([torch.ones(2, 3), p], 1),
    "op": lambda p: torch.ops.aten.add.Tensor(p, p),
    "detach": lambda p: p.detach(),
    "data": lambda p: p.data,
    "set data": lambda p: setattr(p, "data", torch.ones(2, 3)),
    "data_ptr": lambda p: p.data_ptr(),
    "storage": lambda p: p.untyped_storage(),
    "to": lambda p: p.to(torch.bfloat16),
    "view": lambda p: p.view(-1),
    "T": lambda p: p.T,
    "clone": lambda p: p.clone(),
    "tolist": lambda p: p.tolist(),
    "item": lambda p: p[0, 0].item(),
    "numpy": lambda p: p.detach().numpy(),
    "array": lambda p: numpy.asarray(p.requires_grad_(False)),
    "dlpack": lambda p: torch.from_dlpack(p.requires_grad_(False)),
    "equal": lambda p: torch.equal(p, p),
    "repr": lambda p: repr(p),
    "format": lambda p: f"{p}",
    "copy": lambda p: copy.copy(p),
    "deepcopy": lambda p: copy.deepcopy(p),
    "pickle": lambda p: pickle.dumps(p),
    "save": lambda p: torch.save(p, io.BytesIO()),
    "Parameter": lambda p: Parameter(p),
    "init": lambda p: torch.nn.init.normal_(p),
    "share": lambda p: p.is_shared(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("resident", [True, False], ids=["host", "stream"])
def test_use_waits(use, resident):
    tensor, load = arriving(resident=resident)
    use(tensor)
    assert load.waits > 0
    if resident:
        assert type(tensor) is Parameter
        assert "_streamload_arrival" not in tensor.__dict__


def test_a_second_stream_waits_too_until_the_group_is_resident():
    tensor, load = arriving(resident=False)
    assert torch.equal(tensor + 0, torch.full((2, 3), FILL))
    assert type(tensor) is not Parameter
    waits = load.waits
    tensor.sum()
    assert load.waits == waits + 1
    load.resident = True
    tensor.sum()
    assert type(tensor) is Parameter
    assert tensor.__dict__ == {}


HANDING_ON = {
    "detach": lambda p: p.detach(),
    "torch.detach": lambda p: torch.detach(p),
    "data": lambda p: p.data,
    "data_ptr": lambda p: p.data_ptr(),
    "untyped_storage": lambda p: p.untyped_storage(),
    "storage": lambda p: p.storage(),
    "dlpack": lambda p: torch.from_dlpack(p.requires_grad_(False)),
    "numpy": lambda p: p.requires_grad_(False).numpy(),
    "array": lambda p: numpy.asarray(p.requires_grad_(False)),
    "share": lambda p: p.share_memory_(),
    "Parameter": lambda p: Parameter(p),
    "copy": lambda p: copy.copy(p),
    "state_dict": lambda p: module_of(p).state_dict(),
}


def module_of(parameter):
    module = torch.nn.Module()
    module.weight = parameter
    return module


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("hand_on", HANDING_ON.values(), ids=HANDING_ON.keys())
def test_memory_handed_on_has_its_bytes_for_every_stream(hand_on):
    tensor, load = arriving(resident=False)
    hand_on(tensor)
    assert load.settles == 1
    assert type(tensor) is Parameter
    assert tensor.__dict__ == {}


COMPUTATIONS = {
    "linear": lambda p: torch.nn.functional.linear(torch.ones(3), p),
    "matmul": lambda p: torch.ones(1, 2) @ p,
    "matmul of a view": lambda p: torch.ones(1, 3) @ p.t(),
    "T": lambda p: p.T,
    "view": lambda p: p.view(-1) * 2,
    "slice": lambda p: p[:1] + 1,
    "chunk": lambda p: p.chunk(2),
    "embedding": lambda p: torch.nn.functional.embedding(torch.tensor([0, 1]), p),
    "layer_norm": lambda p: torch.nn.functional.layer_norm(torch.ones(2, 3), (2, 3), p),
    "to": lambda p: p.to(torch.float32) + p.to(torch.float64),
    "backward": lambda p: (p * 2).sum().backward(),
}


@pytest.mark.parametrize("compute", COMPUTATIONS.values(), ids=COMPUTATIONS.keys())
def test_computing_never_waits_on_the_host(compute):
    tensor, load = arriving(resident=False)
    compute(tensor)
    assert load.waits > 0
    assert load.settles == 0


@pytest.mark.parametrize("resident", [True, False], ids=["host", "stream"])
class TestResults:
    """What comes out is what the plain tensor would give."""

    def test_operations_give_plain_tensors(self, resident):
        tensor, _ = arriving(resident=resident)
        results = [tensor + 1, tensor.view(-1), tensor.detach(), torch.cat([tensor, tensor]), tensor.data]
        assert {type(result) for result in results} == {torch.Tensor}

    def test_in_place_operations_return_the_same_object(self, resident):
        tensor, _ = arriving(resident=resident)
        with torch.no_grad():
            assert tensor.add_(1) is tensor
            assert torch.equal(tensor + 0, torch.full((2, 3), FILL + 1))

    def test_copy_into_waits_first(self, resident):
        tensor, _ = arriving(resident=resident)
        with torch.no_grad():
            tensor.copy_(torch.zeros(2, 3))
        assert torch.equal(tensor.detach(), torch.zeros(2, 3))

    def test_deepcopy_is_a_plain_parameter(self, resident):
        tensor, load = arriving(resident=resident)
        tensor.note = 5
        twin = copy.deepcopy({"a": tensor, "b": tensor})
        assert type(twin["a"]) is Parameter
        assert twin["a"] is twin["b"]
        assert torch.equal(twin["a"], torch.full((2, 3), FILL))
        assert load.settles == 1

    def test_pickle_is_a_plain_parameter(self, resident):
        tensor, _ = arriving(resident=resident)
        tensor.note = 5
        twin = pickle.loads(pickle.dumps(tensor))
        assert type(twin) is Parameter
        assert twin.__dict__ == {"note": 5}
        assert torch.equal(twin, torch.full((2, 3), FILL))

    def test_a_new_parameter_of_it_is_plain_and_shares_memory(self, resident):
        tensor, _ = arriving(resident=resident)
        twin = Parameter(tensor)
        assert type(twin) is Parameter
        assert twin.requires_grad
        assert twin.is_leaf
        assert twin.data_ptr() == tensor.data_ptr()

    def test_calling_its_class_makes_the_plain_class(self, resident):
        tensor, _ = arriving(resident=resident)
        assert type(type(tensor)(torch.ones(2), False)) is Parameter

    def test_repr_is_the_plain_one(self, resident):
        tensor, _ = arriving(resident=resident)
        assert repr(tensor) == repr(Parameter(torch.full((2, 3), FILL)))

    def test_gradients_arrive_in_the_same_object(self, resident):
        tensor, _ = arriving(resident=resident)
        (tensor * 2).sum().backward()
        assert torch.equal(tensor.grad, torch.full((2, 3), 2.0))

    def test_a_buffer_gets_its_class_back(self, resident):
        tensor, load = arriving(resident=resident, buffer=True, dtype=torch.int64)
        assert tensor.dtype == torch.int64
        assert load.waits == 0
        tensor.add_(1)
        load.resident = True
        assert tensor.tolist() == [[FILL + 1] * 3] * 2
        assert type(tensor) is torch.Tensor

    def test_other_subclasses_still_see_the_call(self, resident):
        class Seen(torch.Tensor):
            functions = []  # noqa: RUF012  # a test's own record

            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):  # noqa: ANN206  # a test's own class
                cls.functions.append(func)
                return super().__torch_function__(func, types, args, kwargs or {})

        tensor, load = arriving(resident=resident)
        other = torch.ones(2, 3).as_subclass(Seen)
        Seen.functions.clear()
        assert type(other + tensor) is Seen
        assert set(Seen.functions) == {torch.Tensor.add}
        assert load.waits == 1

    def test_modes_still_see_the_call(self, resident):
        tensor, load = arriving(resident=resident)
        with torch.device("cpu"):
            assert torch.equal(tensor + 0, torch.full((2, 3), FILL))
        assert load.waits == 1

    def test_a_parameter_class_of_ones_own_is_given_back(self, resident):
        class Special(Parameter):
            pass

        tensor, load = arriving(resident=resident, kind=Special)
        assert isinstance(tensor, Special)
        assert torch.equal(tensor + 0, torch.full((2, 3), FILL))
        load.resident = True
        tensor.sum()
        assert type(tensor) is Special


def test_open_gate_leaves_nothing_and_may_be_repeated():
    tensor, load = arriving()
    tensor.note = 1
    for _ in range(2):
        open_gate(tensor)
        assert type(tensor) is Parameter
        assert tensor.__dict__ == {"note": 1}
    assert load.waits == 0
    assert arriving_load(tensor) is None


def test_many_threads_see_the_bytes_and_one_class():
    for _ in range(20):
        tensor, _ = arriving()
        barrier = threading.Barrier(4)
        sums = []

        def use(tensor=tensor, barrier=barrier, sums=sums):
            barrier.wait()
            sums.append((tensor.detach() * 1).sum().item())

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sums == [FILL * 6] * 4
        assert type(tensor) is Parameter


def test_a_failed_load_raises_at_every_use_and_keeps_its_metadata():
    class FailedLoad(FakeLoad):
        def order(self, group):
            raise OSError(5, "Input/output error")

    tensor = Parameter(torch.zeros(2))
    close_gate(tensor, FailedLoad(tensor), 7)
    for use in (torch.sum, copy.deepcopy, pickle.dumps, repr, Parameter, torch.Tensor.detach):
        with pytest.raises(OSError, match="Input/output"):
            use(tensor)
    assert tensor.shape == (2,)
