"""`fill` puts a checkpoint's tensors, or parts of them, into memory that is there: every byte, and no other."""

from __future__ import annotations

import pytest
import torch

import streamload
from streamload import StreamOptions
from streamload._engine import CopyEngine
from streamload._native import HostDevice
from streamload.torch import Destination, _convert, _fill, fill, load_file, save_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nan_memory")]

ALL = slice(None)


@pytest.fixture
def path(tmp_path):
    """Tensors of several shapes and dtypes; numbers tell where they belong."""
    numbers = torch.arange(96 * 64, dtype=torch.float32).reshape(96, 64)
    tensors = {
        "q": numbers,
        "k": numbers[:32] + 0.5,
        "v": numbers[:32] - 0.5,
        "stack": torch.arange(4 * 6 * 50, dtype=torch.int32).reshape(4, 6, 50),
        "half": numbers.bfloat16(),
        "byte": torch.arange(256).to(torch.uint8),
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(7.0),
        "empty": torch.empty(0, 5),
        "small": numbers.clamp(-3, 3).to(torch.float8_e4m3fn),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def expected(path):
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def same(got, want):
    got, want = (tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor for tensor in (got, want))
    return torch.equal(got, want)


@pytest.fixture
def engine():
    """An engine whose reads and staging are small, so that every load is cut."""
    with CopyEngine(HostDevice(poison=True), StreamOptions(chunk_bytes=64 << 10, staging_bytes=256 << 10)) as engine:
        yield engine


def test_every_tensor_goes_into_the_one_of_its_name(path, expected):
    tensors = {name: torch.full_like(tensor, 1) for name, tensor in expected.items()}
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    stats = fill(path, tensors)
    assert all(same(tensors[name], expected[name]) for name in expected)
    assert addresses == {name: tensor.data_ptr() for name, tensor in tensors.items()}
    assert stats.bytes_total == stats.bytes_resident == sum(tensor.nbytes for tensor in expected.values())


def test_parts_of_a_fused_parameter(path, expected, engine):
    qkv = torch.zeros(160, 64)
    places = [Destination("q", qkv[:96]), Destination("k", qkv[96:128]), Destination("v", qkv[128:])]
    fill(path, iter(places), engine=engine)
    assert torch.equal(qkv, torch.cat([expected["q"], expected["k"], expected["v"]]))
    side = torch.zeros(32, 128)
    fill(path, [Destination("k", side[:, :64]), Destination("v", side[:, 64:])], engine=engine)
    assert torch.equal(side, torch.cat([expected["k"], expected["v"]], dim=1))


def test_experts_of_a_stacked_parameter_and_of_a_stacked_tensor(path, expected):
    experts = torch.zeros(3, 32, 64)
    fill(path, [Destination("k", experts[0]), Destination("v", experts[2])])
    assert torch.equal(experts, torch.stack([expected["k"], torch.zeros(32, 64), expected["v"]]))
    one = torch.zeros(6, 50, dtype=torch.int32)
    fill(path, [Destination("stack", one, (-1,))])
    assert torch.equal(one, expected["stack"][3])


@pytest.mark.parametrize("name", ["q", "half", "small"])
@pytest.mark.parametrize("rank", range(4))
def test_each_rank_of_a_split_model_takes_its_own(name, rank, path, expected, engine):
    whole = expected[name]
    rows, columns = slice(24 * rank, 24 * rank + 24), slice(16 * rank, 16 * rank + 16)
    by_row, by_column = torch.zeros(96, 16).to(whole.dtype), torch.zeros(24, 64).to(whole.dtype)
    stats = fill(
        path, [Destination(name, by_row, (ALL, columns)), Destination(name, by_column, (rows,))], engine=engine
    )
    assert same(by_row, whole[:, columns])
    assert same(by_column, whole[rows])
    assert stats.bytes_total == by_row.nbytes + by_column.nbytes


def test_a_part_of_every_dimension(path, expected):
    index = (slice(1, 3), slice(2, 5), slice(10, -10))
    target = torch.zeros(5, 2, 3, 30, dtype=torch.int32)
    fill(path, [Destination("stack", target[3], index)])
    assert torch.equal(target[3], expected["stack"][index])
    assert target[[0, 1, 2, 4]].eq(0).all()


def test_a_transposed_view_and_other_orders(path, expected):
    across = torch.zeros(64, 96)
    mixed = torch.zeros(50, 4, 6, dtype=torch.int32)
    fill(path, [Destination("q", across.t()), Destination("stack", mixed.permute(1, 2, 0))])
    assert torch.equal(across, expected["q"].t())
    assert torch.equal(mixed, expected["stack"].permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32], ids=str)
def test_another_dtype_is_cast_as_copy_does(dtype, path, expected):
    target = torch.zeros(2, 96, 64, dtype=dtype)
    scalar = torch.zeros((), dtype=dtype)
    fill(path, [Destination("q", target[1]), Destination("half", target[0]), Destination("scalar", scalar)])
    assert torch.equal(target[1], expected["q"].to(dtype))
    assert torch.equal(target[0], expected["half"].to(dtype))
    assert scalar == 7


def test_what_is_cast_passes_through_little_memory(path, expected, engine, monkeypatch):
    monkeypatch.setattr("streamload.torch._fill.TRANSIENT_BYTES", 4096)
    sizes = []
    real = torch.empty

    def empty(*args: object, **kwargs: object):
        made = real(*args, **kwargs)
        sizes.append(made.nbytes)
        return made

    monkeypatch.setattr(_convert.torch, "empty", empty)
    tensors = {name: torch.zeros(expected[name].shape, dtype=torch.float64) for name in ("q", "k", "half", "scalar")}
    fill(path, tensors, engine=engine)
    assert sum(size for size in sizes if size > 16) <= 4096
    assert all(torch.equal(tensors[name], expected[name].double()) for name in tensors)


def test_a_conjugated_view_gets_the_numbers_not_the_bytes(tmp_path):
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    save_file({"c": numbers}, tmp_path / "c.safetensors")
    target = torch.zeros(2, dtype=torch.complex64)
    fill(tmp_path / "c.safetensors", {"c": target.conj()})
    assert torch.equal(target, numbers.conj())


def test_parameters_are_filled_in_place_and_autograd_is_told(path, expected):
    qkv = torch.nn.Parameter(torch.zeros(160, 64))
    cast = torch.nn.Parameter(torch.zeros(32, 64, dtype=torch.float64))
    result = (qkv * qkv).sum()
    versions = qkv._version, cast._version
    fill(path, [Destination("q", qkv[:96]), Destination("v", cast)])
    assert torch.equal(qkv[:96], expected["q"])
    assert qkv.is_leaf
    assert qkv.requires_grad
    assert qkv._version > versions[0]
    assert cast._version > versions[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_tensors_of_inference_mode_are_filled(path, expected):
    with torch.inference_mode():
        inside, cast = torch.zeros(96, 64), torch.zeros(32, 64, dtype=torch.float64)
        fill(path, {"q": inside})
    fill(path, {"k": cast})
    assert torch.equal(inside, expected["q"])
    assert torch.equal(cast, expected["k"].double())


class Wrapper(torch.Tensor):
    """A tensor without memory of its own, as distributed and quantised ones are."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None) -> object:
        raise NotImplementedError(func)


def test_an_open_checkpoint_stays_open_and_a_path_is_closed(path, expected, open_descriptors):
    target = torch.zeros(96, 64)
    before = open_descriptors()
    fill(path, {"q": target})
    assert open_descriptors() == before
    with streamload.open(path) as checkpoint:
        fill(checkpoint, {"q": target})
        assert not checkpoint.closed
    assert torch.equal(target, expected["q"])


def test_only_shards_that_bytes_are_read_from_are_opened(tmp_path):
    shards = [{"a": torch.arange(5)}, {"b": torch.empty(0, 3)}, {"c": torch.arange(7)}, {"d": torch.arange(9)}]
    for number, tensors in enumerate(shards):
        save_file(tensors, tmp_path / f"model-{number}.safetensors")
    with streamload.open(tmp_path) as checkpoint:
        for number in (0, 1):
            (tmp_path / f"model-{number}.safetensors").unlink()
        targets = {
            "d": torch.zeros(9, dtype=torch.int64),
            "b": torch.empty(0, 3),
            "c": torch.zeros(7, dtype=torch.int64),
        }
        fill(checkpoint, targets)
        assert torch.equal(targets["c"], torch.arange(7))
        assert torch.equal(targets["d"], torch.arange(9))
        with pytest.raises(FileNotFoundError):
            fill(checkpoint, {"a": torch.zeros(5, dtype=torch.int64)})


def test_nothing_to_fill_is_no_load(path):
    for nothing in ({}, [], {"empty": torch.zeros(0, 5)}, [Destination("q", torch.zeros(0, 64), (slice(0, 0),))]):
        assert fill(path, nothing).bytes_total == 0


def test_one_name_may_go_to_several_places(path, expected):
    targets = [torch.zeros(96, 64) for _ in range(3)]
    fill(path, [Destination("q", target) for target in targets])
    assert all(torch.equal(target, expected["q"]) for target in targets)


WRONG = {
    "unknown name": (lambda: {"qq": torch.zeros(1)}, KeyError, "no tensor 'qq'.*nearest: q"),
    "shape": (
        lambda: {"q": torch.zeros(64, 96)},
        ValueError,
        r"tensor 'q': .*\[96, 64\], and the destination \[64, 96\]",
    ),
    "part": (
        lambda: [Destination("q", torch.zeros(96, 64), (0,))],
        ValueError,
        r"'q': .*\[96, 64\], \[64\] of it are asked for, and the destination \[96, 64\]",
    ),
    "index": (lambda: [Destination("q", torch.zeros(64), (96,))], IndexError, "'q': index 96 is out of range"),
    "kind of index": (lambda: [Destination("q", torch.zeros(64), 0)], TypeError, "'q': expected a tuple of ints"),
    "step": (lambda: [Destination("q", torch.zeros(48, 64), (slice(0, 96, 2),))], ValueError, "'q': slices must have"),
    "no tensor": (lambda: {"q": [0.0]}, TypeError, r"'q': expected a torch.Tensor to put it into, got \[0.0\]"),
    "no destination": (lambda: [("q", torch.zeros(96, 64))], TypeError, "expected a mapping of names to tensors"),
    "meta": (lambda: {"q": torch.empty(96, 64, device="meta")}, TypeError, "'q': the destination is on 'meta'"),
    "sparse": (lambda: {"q": torch.zeros(96, 64).to_sparse()}, TypeError, "'q': .* strided tensors only"),
    "wrapper": (
        lambda: {"q": torch.Tensor._make_wrapper_subclass(Wrapper, (96, 64))},
        TypeError,
        "'q': Wrapper has no memory of its own",
    ),
    "expanded": (lambda: {"q": torch.zeros(1, 64).expand(96, 64)}, TypeError, "'q': .* cannot be shown not to share"),
    "no cast": (
        lambda: {"q": torch.quantize_per_tensor(torch.zeros(96, 64), 1.0, 0, torch.qint8)},
        TypeError,
        "'q' is F32, which torch cannot cast",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_a_mistake_is_told_before_any_byte_is_written(make, error, text, path):
    first = torch.zeros(32, 64)
    wrong = make()
    wrong = {"k": first, **wrong} if isinstance(wrong, dict) else [Destination("k", first), *wrong]
    with pytest.raises(error, match=text):
        fill(path, wrong)
    assert first.eq(0).all()


@pytest.mark.parametrize(
    "other",
    [
        lambda whole: whole[95:127],
        lambda whole: whole[:32],
        lambda whole: whole.as_strided((32, 64), (1, 64), 64),
        lambda whole: whole.view(torch.float64)[64:].view(-1, 64)[:32],
        lambda whole: whole.view(128, 128)[16:48, 32:96],
    ],
)
def test_destinations_that_share_memory_are_refused_by_name(other, path):
    whole = torch.zeros(256, 64)
    with pytest.raises(ValueError, match=r"tensors '[qk]' and '[qk]' are to be put into the same memory"):
        fill(path, [Destination("q", whole[:96]), Destination("k", other(whole))])
    assert whole.eq(0).all()


def test_options_and_engines_are_checked_as_everywhere(path, engine):
    target = {"q": torch.zeros(96, 64)}
    with pytest.raises(ValueError, match="options or an engine, not both"):
        fill(path, target, options=StreamOptions(), engine=engine)
    with pytest.raises(TypeError, match="options must be StreamOptions"):
        fill(path, {}, options={"read_threads": 1})
    with pytest.raises(FileNotFoundError):
        fill(path.with_name("none"), target)


def test_the_first_byte_is_counted_from_the_call(path, monkeypatch):
    began = []
    clock = _fill.time.perf_counter
    monkeypatch.setattr(_fill.time, "perf_counter", lambda: began.append(clock()) or began[-1])
    stats = fill(path, {"q": torch.zeros(96, 64)})
    assert stats.first_byte_seconds > began[1] - began[0]  # the second look is behind the submission
