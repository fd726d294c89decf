"""Pipelines and models of diffusers, streamed: every bit as stock loads them, and nothing read while planning."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

import streamload

with warnings.catch_warnings():  # of what it imports
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # diffusers warns of itself
]

DEBUG = streamload.StreamOptions(debug=True)
PARTS = ("unet", "vae", "text_encoder")


def make_parts():
    """A UNet, an autoencoder and a text encoder that fit together."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=64,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=16,
    )
    return {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(config)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Where a pipeline is saved, by the largest size of its files."""
    root = tmp_path_factory.mktemp("pipelines")
    without = {"tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipeline = StableDiffusionPipeline(
        **make_parts(), **without, scheduler=DDIMScheduler(), requires_safety_checker=False
    )
    pipeline.save_pretrained(root / "single")
    pipeline.save_pretrained(root / "sharded", max_shard_size="40KB")
    assert len(list((root / "sharded" / "unet").glob("*.safetensors"))) > 2
    return root


def load_pipeline(directory):
    return StableDiffusionPipeline.from_pretrained(directory, tokenizer=None)


def aligned(module):
    """The module with parameters of its own memory: kernels may depend on where they lie."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
    return module


def draw(pipeline):
    """One image, of embeddings that the text encoder makes."""
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        prompt = pipeline.text_encoder(torch.arange(1, 9).view(1, 8)).last_hidden_state
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"prompt_embeds": prompt, "negative_prompt_embeds": prompt * 0.5, "latents": latents}
    return pipeline(**given, num_inference_steps=2, output_type="pt").images


def assert_equal_models(got, expected):
    left, right = got.state_dict(), expected.state_dict()
    assert list(left) == list(right)
    for name, tensor in right.items():
        assert left[name].dtype == tensor.dtype
        assert torch.equal(left[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    assert [(name, each.requires_grad) for name, each in got.named_parameters()] == [
        (name, each.requires_grad) for name, each in expected.named_parameters()
    ]
    assert got.training == expected.training


@pytest.mark.parametrize("files", ["single", "sharded"])
def test_pipeline_draws_the_same_while_it_arrives(saved, files):
    stock = load_pipeline(saved / files)
    for part in PARTS:
        aligned(getattr(stock, part))
    with streamload.diffusers.patch(options=DEBUG):
        pipeline = load_pipeline(saved / files)
    for part in PARTS:
        handle = getattr(pipeline, part).streamload
        assert handle.read_early == ()
        assert handle.module_stream is not None
    assert torch.equal(draw(pipeline), draw(stock))
    for part in PARTS:
        module = getattr(pipeline, part)
        module.streamload.wait(60)
        assert_equal_models(module, getattr(stock, part))


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("chosen", [{}, {"device_map": "cpu"}, {"low_cpu_mem_usage": False}], ids=str)
@pytest.mark.parametrize("files", ["single", "sharded"])
def test_model_is_as_stock_loads_it(saved, files, chosen, dtype):
    directory = saved / files / "unet"
    stock, info = UNet2DConditionModel.from_pretrained(directory, torch_dtype=dtype, output_loading_info=True, **chosen)
    with streamload.diffusers.patch(options=DEBUG):
        model, got = UNet2DConditionModel.from_pretrained(
            directory, torch_dtype=dtype, output_loading_info=True, **chosen
        )
    assert got == info
    if chosen.get("low_cpu_mem_usage", True):
        assert model.streamload.read_early == ()
    model.streamload.wait(60)
    assert_equal_models(model, stock)


def test_parallel_loading_of_shards_reads_nothing_early(saved, monkeypatch):
    from diffusers.models import modeling_utils

    monkeypatch.setattr(modeling_utils, "HF_ENABLE_PARALLEL_LOADING", True)
    directory = saved / "sharded" / "unet"
    with streamload.diffusers.patch():
        model = UNet2DConditionModel.from_pretrained(directory)
    assert model.streamload.read_early == ()
    assert_equal_models(model, UNet2DConditionModel.from_pretrained(directory))


@pytest.mark.parametrize("files", ["single", "sharded"])
def test_contexts_may_lie_in_each_other(saved, files):
    with streamload.diffusers.patch(), streamload.diffusers.patch():
        model = UNet2DConditionModel.from_pretrained(saved / files / "unet")
    assert model.streamload.read_early == ()
    assert model.streamload.module_stream is not None
    assert_equal_models(model, UNet2DConditionModel.from_pretrained(saved / files / "unet"))


def test_other_threads_load_as_ever(saved):
    loaded = []
    with streamload.diffusers.patch():
        load = UNet2DConditionModel.from_pretrained
        thread = threading.Thread(target=lambda: loaded.append(load(saved / "single" / "unet")))
        thread.start()
        thread.join()
    assert not hasattr(loaded[0], "streamload")


def test_pickles_load_as_ever(saved, tmp_path):
    stock = UNet2DConditionModel.from_pretrained(saved / "single" / "unet")
    stock.save_pretrained(tmp_path, safe_serialization=False)
    with streamload.diffusers.patch():
        model = UNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=False)
    assert not hasattr(model, "streamload")
    assert_equal_models(model, stock)


def test_diffusers_is_left_as_it_was(saved, open_descriptors):
    from diffusers.models import modeling_utils

    def parts():
        return modeling_utils.load_state_dict, modeling_utils.ModelMixin.__dict__["_load_pretrained_model"]

    before, descriptors = parts(), open_descriptors()
    with streamload.diffusers.patch():
        assert parts() != before
        with pytest.raises(OSError, match="no_such"):
            UNet2DConditionModel.from_pretrained(saved / "no_such")
    assert parts() == before
    assert open_descriptors() == descriptors
    assert not hasattr(UNet2DConditionModel.from_pretrained(saved / "single" / "unet"), "streamload")


def test_another_diffusers_is_left_alone_with_one_warning(saved, monkeypatch):
    from diffusers.models import modeling_utils

    def load_state_dict(path):
        raise AssertionError(path)

    monkeypatch.setattr(modeling_utils, "load_state_dict", load_state_dict)
    with (
        pytest.warns(RuntimeWarning, match="not streamed: load_state_dict takes") as told,
        streamload.diffusers.patch(),
    ):
        assert modeling_utils.load_state_dict is load_state_dict
    assert len(told) == 1
