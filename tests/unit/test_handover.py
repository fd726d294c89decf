"""What an engine is handed: lazy tensors that are read where they are copied to, and only what is copied."""

from __future__ import annotations

import threading

import pytest

import streamload
from streamload.errors import SourceError

torch = pytest.importorskip("torch")
pytest.importorskip("streamload.torch")
from safetensors.torch import save_file  # noqa: E402 - needs torch

from streamload._handover import HandOver, read_choices  # noqa: E402
from streamload._lazy import LazyTensor  # noqa: E402

WIDE = 8192  # half a row is wider than what is read through


@pytest.fixture
def tensors():
    torch.manual_seed(3)
    return {
        "layers.0.q": torch.randn(64, WIDE).bfloat16(),
        "layers.0.k": torch.randn(32, WIDE).bfloat16(),
        "layers.1.o": torch.randn(64, WIDE).bfloat16(),
        "layers.1.scale": torch.tensor(0.25),
        "norm": torch.randn(WIDE),
    }


@pytest.fixture
def path(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def module():
    made = torch.nn.Module()
    made.qkv = torch.nn.Parameter(torch.full((48, WIDE), torch.nan).bfloat16(), requires_grad=False)
    made.o = torch.nn.Parameter(torch.full((64, WIDE // 2), torch.nan).bfloat16(), requires_grad=False)
    made.norm = torch.nn.Parameter(torch.full((WIDE,), torch.nan), requires_grad=False)
    made.scale = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    return made


def hand_over(module, path, work, *, skip=lambda name: False):
    over = HandOver(read_choices({}, "extra").options)
    with over.load(module, str(path)):
        work(dict(over.weights(streamload.open(path), skip)))
    return module.streamload


def copy_halves(module, weights, rank=0):
    """As a rank of two does: column-parallel, fused; row-parallel; replicated."""
    module.qkv.data.narrow(0, 0, 32).copy_(weights["layers.0.q"].narrow(0, 32 * rank, 32))
    module.qkv.data.narrow(0, 32, 16).copy_(weights["layers.0.k"].narrow(0, 16 * rank, 16))
    module.o.data.copy_(weights["layers.1.o"].narrow(1, WIDE // 2 * rank, WIDE // 2))
    module.norm.data.copy_(weights["norm"])


def check_halves(module, tensors, rank=0):
    rows, columns = slice(32 * rank, 32 * rank + 32), slice(WIDE // 2 * rank, WIDE // 2 * (rank + 1))
    assert torch.equal(module.qkv[:32], tensors["layers.0.q"][rows])
    assert torch.equal(module.qkv[32:], tensors["layers.0.k"][16 * rank : 16 * rank + 16])
    assert torch.equal(module.o, tensors["layers.1.o"][:, columns])
    assert torch.equal(module.norm, tensors["norm"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_gets_its_parts_and_reads_no_other_bytes(module, path, tensors, rank):
    done = hand_over(module, path, lambda weights: copy_halves(module, weights, rank))
    check_halves(module, tensors, rank)
    wanted = sum(each.nbytes for each in (module.qkv, module.o, module.norm))
    assert wanted <= done.bytes_read <= wanted + 4096
    assert done.bytes_total == sum(each.nbytes for each in tensors.values())
    assert done.read_early == ()


def test_nothing_is_read_before_the_end_or_a_use(module, path, tensors):
    def work(weights):
        copy_halves(module, weights)
        source = weights["norm"].node.source
        assert source.into.stats().bytes_read == 0
        assert bool(module.norm[0] == tensors["norm"][0])  # a view, then a use of it
        assert source.into.stats().bytes_read > 0

    hand_over(module, path, work)
    check_halves(module, tensors)


def test_what_works_on_a_parameter_right_after_its_copy_sees_the_bytes(module, path, tensors):
    def work(weights):
        module.norm.data.copy_(weights["norm"])
        module.norm.data.copy_(-torch.exp(module.norm.data))

    hand_over(module, path, work)
    assert torch.equal(module.norm, -torch.exp(tensors["norm"]))


@pytest.mark.parametrize("look", [lambda t: t.numpy()[0], lambda t: t.tolist()[0], lambda t: t.untyped_storage()[:4]])
def test_what_looks_past_the_dispatcher_sees_the_bytes(module, path, tensors, look):
    seen = []

    def work(weights):
        module.norm.data.copy_(weights["norm"])
        seen.append(look(module.norm.data))

    hand_over(module, path, work)
    wanted = look(tensors["norm"])
    assert list(seen[0]) == list(wanted) if hasattr(wanted, "nbytes") and not hasattr(wanted, "item") else True
    assert torch.equal(module.norm, tensors["norm"])


def test_what_is_written_twice_holds_what_came_last(module, path, tensors):
    def work(weights):
        module.norm.data.copy_(weights["norm"])
        module.norm.data.zero_()
        module.o.data.copy_(weights["layers.1.o"].narrow(1, 0, WIDE // 2))
        module.o.data.copy_(weights["layers.0.q"].narrow(1, 0, WIDE // 2))

    hand_over(module, path, work)
    assert not module.norm.any()
    assert torch.equal(module.o, tensors["layers.0.q"][:, : WIDE // 2])


def test_tensors_that_are_kept_are_read_after_the_load(module, path, tensors):
    kept = {}
    hand_over(module, path, kept.update)
    module.norm.data.copy_(kept["norm"])  # at once: nobody puts it off any more
    assert torch.equal(module.norm, tensors["norm"])
    assert torch.equal(kept["layers.0.q"] + 0, tensors["layers.0.q"])


def test_casts_and_views_are_put_in_place(module, path, tensors):
    other = torch.nn.Module()
    other.wide = torch.nn.Parameter(torch.zeros(1, WIDE, 64), requires_grad=False)

    def work(weights):
        other.wide.data.copy_(weights["layers.0.q"].unsqueeze(0).transpose(1, 2))
        module.norm.data.view(1, -1).copy_(weights["norm"].flatten().to("cpu").contiguous())

    done = hand_over(module, path, work)
    assert torch.equal(other.wide[0], tensors["layers.0.q"].t().float())
    assert torch.equal(module.norm, tensors["norm"])
    assert done.read_early == ()


def test_small_tensors_are_there_at_once(module, path):
    def work(weights):
        assert not isinstance(weights["layers.1.scale"], LazyTensor)
        module.scale.data.fill_(weights["layers.1.scale"].item())

    hand_over(module, path, work)
    assert module.scale.item() == 0.25


def test_copies_that_only_count_read_nothing(module, path):
    def work(weights):
        torch.empty(64, WIDE, dtype=torch.bfloat16, device="meta").copy_(weights["layers.0.q"])

    assert hand_over(module, path, work).bytes_read <= 4096


def test_what_an_engine_keeps_as_a_parameter_is_made_real(module, path, tensors):
    def work(weights):
        module.q = torch.nn.Parameter(weights["layers.0.q"], requires_grad=False)
        module.norm.data = weights["norm"]

    hand_over(module, path, work)
    assert not any(isinstance(each, LazyTensor) for each in module.parameters())
    assert torch.equal(module.q, tensors["layers.0.q"])
    assert torch.equal(module.norm, tensors["norm"])


def test_names_that_are_not_wanted_are_not_yielded(module, path):
    names = []
    hand_over(module, path, names.extend, skip=lambda name: name.startswith("layers.0"))
    assert sorted(names) == ["layers.1.o", "layers.1.scale", "norm"]


def test_copies_of_other_threads_are_done_at_once(module, path, tensors):
    def work(weights):
        def copy():
            module.norm.data.copy_(weights["norm"])
            assert torch.equal(module.norm, tensors["norm"])

        thread = threading.Thread(target=copy)
        thread.start()
        thread.join()

    hand_over(module, path, work)
    assert torch.equal(module.norm, tensors["norm"])


def test_a_file_that_was_cut_off_fails_the_load(module, path):
    def work(weights):
        copy_halves(module, weights)
        path.write_bytes(path.read_bytes()[:-WIDE])

    with pytest.raises(SourceError, match=r"model\.safetensors"):
        hand_over(module, path, work)


def test_a_failure_of_the_engine_leaves_as_it_is(module, path, own_threads):
    def work(weights):
        copy_halves(module, weights)
        raise LookupError("no such parameter")

    with pytest.raises(LookupError, match="no such parameter"):
        hand_over(module, path, work)
    assert not hasattr(module, "streamload")
    assert torch.ones(2).sum().item() == 2  # operations are watched no more


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"chunk": 1}, "no key 'chunk'; the keys are cache_bytes, cache_dir, .*uri"),
        ([1], "must be a mapping"),
        ({"uri": 3}, "uri must be a path or URL"),
        ({"storage_options": {}}, "give uri too"),
        ({"uri": "s3://a/b", "storage_options": 3}, "storage_options must be a mapping"),
        ({"chunk_bytes": 3}, "chunk_bytes must be from"),
        ({"verify": 1}, "verify must be True or False"),
        ({"device_memory": 1 << 30}, "device_memory is for stream_module"),
    ],
)
def test_choices_that_would_not_be_heeded_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        read_choices(given, "extra")


def test_choices_hold_every_option_of_a_load():
    chosen = read_choices({"uri": "s3://b/m", "storage_options": {"key": "k"}, "read_threads": 3}, "extra")
    assert (chosen.uri, chosen.storage_options, chosen.options.read_threads) == ("s3://b/m", {"key": "k"}, 3)
    assert "key" not in repr(chosen)
