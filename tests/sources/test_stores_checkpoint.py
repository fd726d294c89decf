"""Checkpoints in stores: found as in a directory, one request a shard, the same errors; streamed, asleep and awake."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

import streamload
from streamload import StreamOptions
from streamload._sources import HttpSource
from streamload.errors import ChangedError, FormatError, SourceError

from ..servers.fault_proxy import Fault

SECRET = "s3cr3t"


@pytest.fixture
def hosted(origin, fault_proxy, sharded):
    """The URL of a place that holds the files of `sharded`; what was asked is in `fault_proxy.requests`."""
    folder = f"/{uuid4().hex}"
    for file in sharded.iterdir():
        origin.put(f"{folder}/{file.name}", file.read_bytes())
    return fault_proxy.url + folder


def asked(proxy, since):
    return sorted(request.path.rpartition("/")[2] for request in list(proxy.requests)[since:])


def test_shards_take_one_request_each(hosted, fault_proxy):
    before = len(fault_proxy.requests)
    with streamload.open(f"{hosted}/model.safetensors.index.json?sig={SECRET}") as checkpoint:
        assert list(checkpoint) == ["a", "b", "c", "d"]
        assert checkpoint.metadata == {"format": "pt", "part": "1", "more": "x"}
        assert [shard.url for shard in checkpoint.shards][1] == f"{hosted}/model-00002-of-00003.safetensors"
        assert SECRET not in repr(checkpoint) + checkpoint.url
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert asked(fault_proxy, before) == [*names, "model.safetensors.index.json"]


def test_place_that_cannot_be_listed_is_tried_in_the_order_of_directories(hosted, origin, write, tmp_path):
    with streamload.open(hosted) as checkpoint:
        assert len(checkpoint.shards) == 3
    whole = write(tmp_path / "whole" / "model.safetensors", "whole").read_bytes()
    origin.put(f"/{hosted.rpartition('/')[2]}/model.safetensors", whole)
    with streamload.open(hosted) as checkpoint:
        assert list(checkpoint) == ["whole"]


def test_variant_is_tried_by_its_names(hosted, origin, write, tmp_path):
    data = write(tmp_path / "v" / "model.fp16.safetensors", "half").read_bytes()
    origin.put(f"/{hosted.rpartition('/')[2]}/model.fp16.safetensors", data)
    with streamload.open(hosted, variant="fp16") as checkpoint:
        assert list(checkpoint) == ["half"]
    with pytest.raises(FileNotFoundError, match="bf16"):
        streamload.open(hosted, variant="bf16")
    with pytest.raises(ValueError, match="chosen in a directory"):
        streamload.open(hosted + "/model.fp16.safetensors", variant="fp16")


def test_nothing_there_says_what_was_tried(fault_proxy):
    with pytest.raises(FileNotFoundError, match=r"cannot be listed, and has none of model\.safetensors, "):
        streamload.open(f"{fault_proxy.url}/nowhere?sig={SECRET}")


def test_missing_shard_names_the_index(hosted, origin):
    origin.remove(f"/{hosted.rpartition('/')[2]}/model-00002-of-00003.safetensors")
    with pytest.raises(FileNotFoundError, match=r"a shard that .*index\.json names.*00002"):
        streamload.open(hosted)


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "http://h/x"])
def test_index_that_leaves_its_place_is_refused(hosted, origin, fault_proxy, shard):
    text = json.dumps({"weight_map": {"a": shard}})
    origin.put(f"/{hosted.rpartition('/')[2]}/model.safetensors.index.json", text.encode())
    before = len(fault_proxy.requests)
    with pytest.raises(FormatError, match="is refused"):
        streamload.open(hosted + "/model.safetensors.index.json")
    assert len(fault_proxy.requests) == before + 1


def test_what_is_no_safetensors_is_a_format_error(origin):
    origin.put("/page/model.safetensors", b"<!DOCTYPE html><html>" * 20)
    with pytest.raises(FormatError, match=r"page/model\.safetensors"):
        streamload.open(origin.url + "/page")


def test_pickles_are_named(origin):
    origin.put("/p/pytorch_model.bin", b"PK" * 500)
    with pytest.raises(FormatError, match="pickle"):
        streamload.open(origin.url + "/p/pytorch_model.bin")


def test_long_header_takes_one_request_more(origin, fault_proxy, write, tmp_path):
    names = [f"{'x' * 200}.{n}" for n in range(1500)]
    data = write(tmp_path / "model.safetensors", *names).read_bytes()
    origin.put("/long/model.safetensors", data)
    before = len(fault_proxy.requests)
    with streamload.open(fault_proxy.url + "/long/model.safetensors") as checkpoint:
        assert len(checkpoint) == 1500
    ranges = [request.range for request in list(fault_proxy.requests)[before:]]
    assert len(ranges) == 2
    assert ranges[1].startswith("bytes=262144-")


def test_failed_shard_closes_the_others(hosted, fault_proxy, monkeypatch):
    opened = []

    class Recorded(HttpSource):
        def _take_first(self, response, asked):
            opened.append(self)
            super()._take_first(response, asked)

    monkeypatch.setattr("streamload._sources._stores.HttpSource", Recorded)
    fault_proxy.set(Fault("status", status=404, times=1, after=3))
    with pytest.raises(FileNotFoundError):
        streamload.open(hosted + "/model.safetensors.index.json")
    assert 2 <= len(opened) <= 3, "the index and a shard; the other may have been given up before it was there"
    assert all(source.closed for source in opened)


def test_storage_options_are_for_stores(sharded):
    with pytest.raises(ValueError, match="storage_options are for stores"):
        streamload.open(sharded, storage_options={"key": "x"})


torch = pytest.importorskip("torch")


@pytest.fixture
def model():
    torch.manual_seed(3)
    layers = [torch.nn.Linear(96, 96) for _ in range(4)]
    return torch.nn.Sequential(torch.nn.Embedding(50, 96), *layers)


@pytest.fixture
def weights(origin, fault_proxy, model, tmp_path):
    """The URL of `model`'s weights."""
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "model.safetensors")
    path = f"/{uuid4().hex}/model.safetensors"
    origin.put(path, (tmp_path / "model.safetensors").read_bytes())
    return fault_proxy.url + path


def same(found, model):
    wanted = model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_every_function_that_takes_a_path_takes_a_url(weights, model):
    from streamload.torch import fill, iter_tensors, load_file, load_model, safe_open

    same(load_file(weights), model)
    same(dict(iter_tensors(weights)), model)
    with safe_open(weights) as file:
        same(file.get_tensors(), model)
        assert torch.equal(file.get_slice("1.weight")[3:5, :7], model[1].weight[3:5, :7])
        assert file.bytes_read < 2 * sum(each.nbytes for each in model.state_dict().values())
    own = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    fill(weights, own)
    same(own, model)
    other = type(model)(*[torch.nn.Embedding(50, 96), *(torch.nn.Linear(96, 96) for _ in range(4))])
    assert load_model(other, weights) == (set(), [])
    same(other.state_dict(), model)


def test_storage_options_reach_the_store(origin, weights, fault_proxy):
    from streamload.torch import load_file

    load_file(weights, storage_options={"headers": {"Authorization": "Bearer x"}})
    assert fault_proxy.requests[-1].authorized


@pytest.mark.slow
def test_module_streams_sleeps_and_wakes(weights, model):
    from streamload.torch import load_into

    tokens = torch.arange(20)
    expected = model(tokens)
    with torch.device("meta"):
        other = torch.nn.Sequential(torch.nn.Embedding(50, 96), *[torch.nn.Linear(96, 96) for _ in range(4)])
    loading = load_into(other, weights, device="cpu")
    assert torch.equal(other(tokens), expected)
    loading.wait()
    loading.sleep()
    loading.wake()
    assert torch.equal(other(tokens), expected)
    loading.wait()


def test_module_larger_than_its_memory_passes_through_slots(weights, model):
    from streamload.torch import load_into

    tokens = torch.arange(20)
    expected = model(tokens)
    with torch.device("meta"):
        other = torch.nn.Sequential(torch.nn.Embedding(50, 96), *[torch.nn.Linear(96, 96) for _ in range(4)])
    options = StreamOptions(device_memory=140_000)
    with torch.no_grad(), load_into(other, weights, device="cpu", options=options):
        for _ in range(3):
            assert torch.equal(other(tokens), expected)


@pytest.mark.slow
def test_load_with_a_function_of_ones_own(weights, model):
    other = torch.nn.Sequential(torch.nn.Embedding(50, 96), *[torch.nn.Linear(96, 96) for _ in range(4)])
    loading = streamload.load_with(
        other, weights, lambda found: other.load_state_dict(found, assign=True), device="cpu"
    )
    loading.wait()
    same(other.state_dict(), model)


def test_object_replaced_before_waking_is_noticed(weights, origin, model):
    from streamload.torch import load_into

    with torch.device("meta"):
        other = torch.nn.Sequential(torch.nn.Embedding(50, 96), *[torch.nn.Linear(96, 96) for _ in range(4)])
    loading = load_into(other, weights, device="cpu")
    loading.wait()
    loading.sleep()
    path = "/" + weights.partition("//")[2].partition("/")[2]
    origin.put(path, b"x" * loading.stats().bytes_total)
    with pytest.raises(ChangedError):  # noqa: PT012 - where it is noticed does not matter
        loading.wake()
        loading.wait()


def test_failing_store_is_a_source_error(weights, fault_proxy):
    from streamload.torch import iter_tensors

    options = StreamOptions(retry_seconds=0.3, stall_seconds=0.3)
    with streamload.open(weights, options=options) as checkpoint:
        for shard in checkpoint.shards:
            shard.source.forget_head()
        fault_proxy.set(Fault("status", times=0))
        with pytest.raises(SourceError, match="503"):
            dict(iter_tensors(checkpoint, options=options))


def test_checksums_beside_the_weights_are_compared(weights, origin, tmp_path, model):
    from click.testing import CliRunner

    from streamload.cli import main
    from streamload.errors import ChecksumError
    from streamload.torch import load_file

    options = StreamOptions(verify=True)
    with pytest.raises(FileNotFoundError, match=r"upload streamload-checksums\.json"):
        load_file(weights, options=options)
    assert CliRunner().invoke(main, ["manifest", str(tmp_path / "model.safetensors")]).exit_code == 0
    folder = "/" + weights.split("/")[3]
    origin.put(f"{folder}/streamload-checksums.json", (tmp_path / "streamload-checksums.json").read_bytes())
    same(load_file(weights, options=options), model)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    origin.put(f"{folder}/model.safetensors", bytes(data))
    with pytest.raises(ChecksumError):
        load_file(weights, options=options)


def test_second_load_comes_from_the_tier_and_offline_asks_nobody(weights, fault_proxy, model, tmp_path):
    from streamload.torch import load_file

    options = StreamOptions(cache_dir=str(tmp_path / "tier"))
    same(load_file(weights, options=options), model)
    before = len(fault_proxy.requests)
    same(load_file(weights, options=options), model)
    assert len(fault_proxy.requests) <= before + 1, "one request to see that it is the same version"
    before = len(fault_proxy.requests)
    offline = StreamOptions(cache_dir=str(tmp_path / "tier"), offline=True)
    same(load_file(weights, options=offline), model)
    same(load_file(weights.rpartition("/")[0], options=offline), model)
    assert len(fault_proxy.requests) == before
    with pytest.raises(FileNotFoundError, match="offline"):
        load_file(weights + "x.safetensors", options=offline)


def test_storage_options_must_be_a_mapping():
    with pytest.raises(TypeError, match="https://host/x: storage_options must be a mapping, got str"):
        streamload.open("https://host/x", storage_options="key=1")


def test_url_that_lacks_a_slash_is_guessed(tmp_path, monkeypatch, sharded):
    with pytest.raises(FileNotFoundError, match=r"did you mean s3://models/ck?"):
        streamload.open("s3:/models/ck")
    monkeypatch.chdir(tmp_path)
    Path("s3:").symlink_to(sharded)
    with streamload.open("s3:/model.safetensors.index.json") as opened:
        assert len(opened) == 4
