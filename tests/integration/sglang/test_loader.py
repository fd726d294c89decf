"""SGLang's way through the plugin, with a stand-in of its classes: what it gets, what is read, what is remembered."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("streamload.torch")
from safetensors.torch import save_file  # noqa: E402 - needs torch

from . import standin  # noqa: E402

WIDE = 8192


class Model(torch.nn.Module):
    """Holds the second half of the columns of one weight."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(64, WIDE // 2), requires_grad=False)
        self.names = []
        self.processed = False

    def load_weights(self, weights):
        for name, tensor in weights:
            self.names.append(name)
            if name == "w":
                self.w.data.copy_(tensor.narrow(1, WIDE // 2, WIDE // 2))


@pytest.fixture
def get_loader(monkeypatch):
    """SGLang's `get_model_loader` with the plugin around it."""
    registry = standin.install(monkeypatch)
    import streamload.sglang

    streamload.sglang.register()
    ((target, hook, kind),) = registry.hooks
    assert (target, kind) == ("sglang.srt.model_loader.loader.get_model_loader", standin.HookType.AROUND)
    return lambda config, model_config=None: hook(standin.get_model_loader, config, model_config)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "model", 1)


def write(folder, seed):
    folder.mkdir()
    torch.manual_seed(seed)
    save_file({"w": torch.randn(64, WIDE), "other": torch.randn(64, WIDE)}, folder / "model.safetensors")
    return folder


def expected(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["w"][:, WIDE // 2 :]


def load(loader, folder):
    model = Model()
    loader.load_model(model, standin.ModelConfig(str(folder)), torch.device("cpu"))
    return model


def test_without_the_key_the_loader_is_sglangs_own(get_loader):
    assert type(get_loader(standin.LoadConfig())) is standin.DefaultModelLoader


def test_a_load_reads_what_is_copied_and_no_more(get_loader, folder):
    config = standin.LoadConfig(model_loader_extra_config={"streamload": {"read_threads": 2}})
    loader = get_loader(config, standin.ModelConfig(str(folder)))
    assert isinstance(loader, standin.DefaultModelLoader)  # update_weights_from_disk takes no other
    model = load(loader, folder)
    assert torch.equal(model.w, expected(folder))
    assert model.processed
    assert model.names == ["other", "w"] or model.names == ["w", "other"]
    assert model.streamload.bytes_read == model.w.nbytes
    assert config.model_loader_extra_config == {"streamload": {"read_threads": 2}}


def test_an_update_from_disk_keeps_the_options_and_reads_the_new_path(get_loader, folder, tmp_path):
    extra = {"streamload": {"uri": folder.as_uri()}}
    empty = tmp_path / "config"
    empty.mkdir()
    first = get_loader(standin.LoadConfig(model_loader_extra_config=extra), standin.ModelConfig(str(empty)))
    assert torch.equal(load(first, empty).w, expected(folder))
    first.download_model(standin.ModelConfig(str(empty)))
    assert first.downloaded == []
    new = write(tmp_path / "new", 2)
    again = get_loader(standin.LoadConfig(), standin.ModelConfig(str(new)))
    model = load(again, new)
    assert torch.equal(model.w, expected(new))
    assert model.streamload.bytes_read == model.w.nbytes


def test_weights_of_one_draft_layer_are_filtered_as_sglang_does(get_loader, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({f"model.mtp.layers.{n}.x": torch.ones(2) for n in range(3)}, folder / "model.safetensors")
    config = standin.LoadConfig(model_loader_extra_config={"streamload": {}}, draft_model_idx=1)
    assert load(get_loader(config, standin.ModelConfig(str(folder))), folder).names == ["model.mtp.layers.1.x"]


def test_files_that_sglang_has_resolved_are_taken(get_loader, folder):
    loader = get_loader(standin.LoadConfig(model_loader_extra_config={"streamload": {}}))
    resolved = dataclasses.make_dataclass("Resolved", ["weight_files"])((str(folder / "model.safetensors"),))
    source = standin.DefaultModelLoader.Source("nowhere", None, prefix="model.")
    names = [name for name, _ in loader._get_weights_iterator(source, resolved_source=resolved)]
    assert sorted(names) == ["model.other", "model.w"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_loader_extra_config": {"streamload": {"chunk": 1}}}, "no key 'chunk'"),
        ({"model_loader_extra_config": {"streamload": {}, "num_threads": 2}}, "'num_threads' would not be heeded"),
        (
            {"model_loader_extra_config": {"streamload": {}}, "load_format": standin.LoadFormat.GGUF},
            "SGLang chose GGUFModelLoader",
        ),
    ],
)
def test_what_would_not_be_heeded_is_refused(get_loader, config, words):
    with pytest.raises(ValueError, match=words):
        get_loader(standin.LoadConfig(**config))


def test_files_that_are_not_safetensors_are_refused(get_loader, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"pickle")
    loader = get_loader(standin.LoadConfig(model_loader_extra_config={"streamload": {}}))
    with pytest.raises(ValueError, match=r"model\.pt: streamload loads safetensors only"):
        load(loader, folder)
