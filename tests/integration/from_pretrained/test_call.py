"""`streamload.from_pretrained`, the auto classes and `streamed`: which class, which device, every argument."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import streamload  # noqa: E402 - after the skips
import streamload.transformers  # noqa: E402 - after the skips
from streamload.errors import DeviceError  # noqa: E402 - after the skips
from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.transformers import PretrainedStream, StreamedClass, streamed  # noqa: E402 - after the skips

from . import tiny  # noqa: E402 - after the skips

Llama = transformers.LlamaForCausalLM
DEBUG = StreamOptions(debug=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("tiny") / "llama")


def load(name, **given: object):
    return streamload.from_pretrained(name, **{"device": "cpu", "options": DEBUG, **given})


def streams(model):
    return isinstance(model.streamload, PretrainedStream) and model.streamload.reason is None


def test_the_config_names_the_class(saved):
    model = load(saved)
    assert streams(model)
    tiny.assert_equal(model, Llama.from_pretrained(saved, dtype="auto"))
    assert not model.training


@pytest.mark.parametrize(
    ("auto_class", "kind"),
    [
        (transformers.AutoModel, "LlamaModel"),
        ("AutoModel", "LlamaModel"),
        ("LlamaForCausalLM", "LlamaForCausalLM"),
        (transformers.LlamaModel, "LlamaModel"),
        (streamed(transformers.LlamaModel), "LlamaModel"),
    ],
)
def test_a_class_may_be_named(saved, auto_class, kind):
    assert type(load(saved, auto_class=auto_class)).__name__ == kind


@pytest.mark.parametrize("wrong", ["NoSuchModel", "Llama", dict])
def test_a_class_that_is_none_is_refused(saved, wrong):
    with pytest.raises(ValueError, match="no such model class"):
        load(saved, auto_class=wrong)


@pytest.mark.parametrize("architectures", [None, ["NoSuchModel"], ["AutoConfig"], ["__name__"], [3]])
def test_a_config_without_a_class_gives_the_base_model(saved, tmp_path, architectures):
    shutil.copytree(saved, tmp_path / "llama")
    config = tmp_path / "llama" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": architectures}))
    assert type(load(tmp_path / "llama")).__name__ == "LlamaModel"


def test_waiting_returns_when_all_is_resident(saved):
    assert load(saved, wait=True).streamload.progress() == 1.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, None])
def test_without_cuda_the_error_names_the_cpu(saved, device):
    given = {} if device is None else {"device": device}
    with pytest.raises(DeviceError, match="use device='cpu'"):
        streamload.from_pretrained(saved, **given)


def test_a_device_and_a_device_map_are_one_too_many(saved):
    with pytest.raises(ValueError, match="both given"):
        load(saved, device="cpu", device_map="cpu")


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")])
def test_a_device_map_of_one_device_streams(saved, device_map):
    if torch.cuda.is_available() and device_map == "auto":
        pytest.skip("goes to the GPU here")
    stock = Llama.from_pretrained(saved, device_map=device_map, dtype="auto")
    model = streamload.from_pretrained(saved, device_map=device_map, options=DEBUG)
    assert streams(model)
    tiny.assert_equal(model, stock)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["auto", "float32", torch.float16, torch.bfloat16])
def test_dtypes_are_as_in_stock(saved, name, dtype):
    if (name, dtype) == ("torch_dtype", torch.bfloat16):
        with pytest.raises(ValueError, match="two names of one thing"):
            load(saved, dtype=torch.float32, torch_dtype=dtype)
    tiny.assert_equal(load(saved, **{name: dtype}), Llama.from_pretrained(saved, dtype=dtype))


def test_loading_info_is_stocks(saved):
    stock, stock_info = transformers.LlamaForSequenceClassification.from_pretrained(saved, output_loading_info=True)
    model, info = load(saved, auto_class="LlamaForSequenceClassification", output_loading_info=True)
    assert info == stock_info
    assert set(info["missing_keys"]) == {"score.weight"}
    assert list(model.state_dict()) == list(stock.state_dict())
    assert streams(model)


def test_arguments_of_the_stock_call_reach_it(saved):
    model = load(
        saved,
        attn_implementation="eager",
        low_cpu_mem_usage=True,
        use_safetensors=True,
        local_files_only=True,
        token=False,
        rms_norm_eps=0.5,
        use_cache=False,
    )
    assert model.config._attn_implementation == "eager"
    assert model.config.use_cache is False
    assert model.config.rms_norm_eps == 0.5
    config = tiny.config(num_hidden_layers=1)
    assert len(load(saved, config=config, auto_class="LlamaModel").layers) == 1
    with pytest.raises(TypeError, match="no_such_argument"):
        load(saved, no_such_argument=1)


def test_variants_subfolders_shards_and_file_urls_are_found(tmp_path):
    stock = Llama(tiny.config()).to(torch.bfloat16)
    stock.save_pretrained(tmp_path / "below" / "there", variant="fp16", max_shard_size="20KB")
    assert len(list((tmp_path / "below" / "there").glob("model.fp16-*.safetensors"))) > 1
    for name in (tmp_path / "below", (tmp_path / "below").as_uri()):
        model = load(name, subfolder="there", variant="fp16")
        assert streams(model)
        tiny.assert_equal(model, stock)
    with pytest.raises(ValueError, match="is not supported"):
        load("nonsense://bucket/model")


def test_a_repository_in_the_cache_is_loaded_without_a_network(saved, tmp_path):
    name = tiny.cached(tmp_path, saved, revision="v1")
    given = {"cache_dir": tmp_path, "revision": "v1", "local_files_only": True}
    stock = Llama.from_pretrained(name, dtype="auto", **given)
    model = load(name, **given)
    assert streams(model)
    assert model.name_or_path == stock.name_or_path == name
    tiny.assert_equal(model, stock)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
def test_an_adapter_brings_its_base(saved, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    base = Llama.from_pretrained(saved)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, settings).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert streams(model)
    tiny.assert_equal(model, Llama.from_pretrained(tmp_path, dtype="auto"))


REMOTE = """
from transformers import LlamaConfig, LlamaForCausalLM
class MyConfig(LlamaConfig):
    model_type = "mine"
class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


@pytest.mark.slow
def test_code_of_the_repository_runs_if_it_is_trusted(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    shutil.copytree(saved, tmp_path / "mine")
    (tmp_path / "mine" / "code.py").write_text(REMOTE)
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    autos = {"AutoConfig": "code.MyConfig", "AutoModelForCausalLM": "code.MyModel"}
    changed = {**config, "model_type": "mine", "architectures": ["MyModel"], "auto_map": autos}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(changed))
    model = load(tmp_path / "mine", trust_remote_code=True)
    assert type(model).__name__ == "MyModel"
    assert streams(model)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(tmp_path / "mine", trust_remote_code=False)


def test_any_auto_class_is_there_and_streams(saved):
    from streamload.transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved)
    assert streams(model)
    assert type(model) is Llama
    model, info = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True, device_map="cpu")
    assert streams(model)
    assert not info["missing_keys"]
    assert type(AutoModelForCausalLM.from_config(tiny.config())) is Llama
    assert {"AutoModel", "AutoModelForImageClassification"} <= set(dir(streamload.transformers))
    for wrong in ("AutoTokenizer", "AutoModelForNothing", "pipeline"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(streamload.transformers, wrong)


def test_a_streamed_class_is_else_the_stock_class(saved):
    kind = streamed(Llama, options=DEBUG)
    assert isinstance(kind, StreamedClass)
    assert kind.config_class is Llama.config_class
    assert type(kind(tiny.config())) is Llama
    assert kind.stock is Llama
    model = kind.from_pretrained(saved, dtype=torch.float32)
    assert streams(model)
    assert type(model) is Llama
    tiny.assert_equal(model, Llama.from_pretrained(saved, dtype=torch.float32))
    assert repr(kind) == "streamed(transformers.models.llama.modeling_llama.LlamaForCausalLM)"
    with pytest.raises(TypeError, match="has no from_pretrained"):
        streamed(dict)


@pytest.mark.slow
def test_the_call_is_there_without_torch_being_imported():
    code = (
        "import sys, streamload\n"
        "assert {'from_pretrained', 'patch', 'transformers'} <= set(dir(streamload))\n"
        "assert not {'torch', 'transformers', 'streamload.transformers'} & set(sys.modules)\n"
        "assert streamload.from_pretrained is streamload.transformers.from_pretrained\n"
        "assert streamload.patch is streamload.transformers.patch\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_other_peoples_calls_stream_in_a_patch(saved, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "one": 1, "two": 2, "three": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    shutil.copytree(saved, tmp_path / "llama")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "llama")
    with streamload.patch(options=DEBUG):
        features = transformers.pipeline("feature-extraction", str(tmp_path / "llama"), device="cpu")
    assert streams(features.model)
    got = torch.tensor(features("one two three"))
    assert not got.isnan().any()
