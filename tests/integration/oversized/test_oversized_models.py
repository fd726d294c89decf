"""Models of transformers, streamed: cut sensibly, right in forward and generate, with what people put around them."""

from __future__ import annotations

import copy

import pytest
import torch

from .shared import least_budget, run, saved, streamed, streamed_names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nan_memory"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

transformers = pytest.importorskip("transformers")


def llama(**changes: object):
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(shape | changes)))


def qwen3_moe():
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=32,
            num_experts=4,
            num_experts_per_tok=2,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, decoder_start_token_id=0
        )
    )


def vit():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            num_labels=4,
        )
    )


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=64, n_positions=32, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
        )
    )


def falcon_mamba():
    return transformers.FalconMambaForCausalLM(
        transformers.FalconMambaConfig(
            vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=3, time_step_rank=4, pad_token_id=0
        )
    )


def bert():
    return transformers.BertModel(
        transformers.BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64
        )
    )


def albert():
    return transformers.AlbertModel(
        transformers.AlbertConfig(
            vocab_size=64,
            embedding_size=16,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
        )
    )


def swin():
    return transformers.SwinModel(
        transformers.SwinConfig(
            image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4
        )
    )


def resnet():
    return transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")
    )


TOKENS = {"input_ids": torch.arange(3, 19).view(2, 8)}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)}
T5_TOKENS = {**TOKENS, "decoder_input_ids": torch.arange(8).view(2, 4)}

MODELS = {
    "llama": (llama, TOKENS, ["model.layers.0", "model.layers.3"]),
    "qwen3 moe": (qwen3_moe, TOKENS, ["model.layers.0", "model.layers.2"]),
    "t5": (t5, T5_TOKENS, ["encoder.block.0", "decoder.block.2"]),
    "vit": (vit, PIXELS, ["vit.embeddings", "vit.layers.0", "vit.layers.2"]),
    "gpt2": (gpt2, TOKENS, ["transformer.h.0", "transformer.h.2"]),
    "falcon mamba": (falcon_mamba, TOKENS, ["backbone.layers.0", "backbone.layers.2"]),
    "bert": (bert, TOKENS, ["embeddings.word_embeddings", "encoder.layer.0", "encoder.layer.2"]),
    "albert": (albert, TOKENS, ["encoder.albert_layer_groups.0"]),
    "swin": (swin, PIXELS, ["encoder.layers.0", "encoder.layers.1"]),
    "resnet": (resnet, PIXELS, ["encoder.stages.0", "encoder.stages.1"]),
}


def empty(make):
    """The model with its weights on meta and its unsaved buffers real, as transformers builds it."""
    accelerate = pytest.importorskip("accelerate")
    with accelerate.init_empty_weights():
        module = make()
    module.tie_weights()
    return module.eval()


def load(tmp_path, make, *, more=0, **others: object):
    reference, path = saved(tmp_path, make)
    least = least_budget(make, path, empty)
    module = empty(make)
    return reference, module, streamed(module, path, least + more, **others)


def outputs(model, inputs):
    with torch.no_grad():
        return [value for value in model(**inputs).to_tuple() if isinstance(value, torch.Tensor)]


def assert_equal(module, reference, inputs):
    got, expected = outputs(module, inputs), outputs(reference, inputs)
    assert len(got) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("schedule", ["native", "worst"])
@pytest.mark.parametrize(("make", "inputs", "units"), MODELS.values(), ids=MODELS.keys())
def test_a_model_is_cut_by_its_blocks_and_right(make, inputs, units, schedule, tmp_path, request):
    if schedule == "worst":
        request.getfixturevalue("hostile")
    reference, module, loading = load(tmp_path, make)
    for _ in range(5):
        assert_equal(module, reference, inputs)
    turns = [unit.path for unit in loading._streamed()._units]
    assert set(units) & set(turns) or loading.streamed_bytes == 0
    assert loading.streamed_bytes > 0
    stats = loading.rotation_stats() if schedule == "native" else None
    if stats is not None:
        assert stats.bytes_streamed >= 5 * loading.streamed_bytes or stats.slots >= stats.units
    loading.close()


CACHES = ["dynamic", "static"]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("more", [0, 60_000], ids=["one slot", "more"])
def test_generate_gives_the_resident_models_tokens(cache, more, tmp_path):
    reference, module, loading = load(tmp_path, llama, more=more)
    choice = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache, "disable_compile": True}
    expected = reference.generate(**TOKENS, **choice)
    assert torch.equal(module.generate(**TOKENS, **choice), expected)
    assert torch.equal(module.generate(**TOKENS, **choice), expected)
    assert loading.rotation_stats().passes == 12
    assert loading.rotation_stats().bytes_streamed >= 12 * loading.streamed_bytes
    loading.close()


@pytest.mark.parametrize("schedule", ["native", "worst"])
def test_t5_generates_with_its_encoder_run_apart(schedule, tmp_path, request):
    if schedule == "worst":
        request.getfixturevalue("hostile")
    reference, module, loading = load(tmp_path, t5, more=4096)
    choice = {"max_new_tokens": 5, "do_sample": False}
    for _ in range(3):
        assert torch.equal(module.generate(**TOKENS, **choice), reference.generate(**TOKENS, **choice))
    assert "shared.weight" not in streamed_names(module)
    loading.close()


def test_output_attentions_and_hidden_states(tmp_path):
    reference, module, loading = load(tmp_path, lambda: llama(attn_implementation="eager"))
    asked = {**TOKENS, "output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        got, expected = module(**asked), reference(**asked)
    assert all(torch.equal(one, other) for one, other in zip(got.hidden_states, expected.hidden_states, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(got.attentions, expected.attentions, strict=True))
    loading.close()


def test_save_pretrained_writes_every_weight(tmp_path):
    reference, module, loading = load(tmp_path, llama)
    module.save_pretrained(tmp_path / "again")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(again[name], tensor), name
    loading.close()


def test_lora_on_streamed_layers_gives_the_resident_models_values(tmp_path):
    peft = pytest.importorskip("peft")
    reference, module, loading = load(tmp_path, llama)
    config = peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False, r=2)
    torch.manual_seed(1)
    expected = peft.get_peft_model(copy.deepcopy(reference), config)
    torch.manual_seed(1)
    got = peft.get_peft_model(module, config)
    assert "base_layer" in "".join(streamed_names(got))
    for _ in range(3):
        assert_equal(got, expected, TOKENS)
    with pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        got(**TOKENS)
    with pytest.raises(RuntimeError, match="streamed"):
        got.merge_adapter()
    loading.close()


@pytest.mark.parametrize("first", ["hook", "stream"])
def test_accelerates_hooks_run_inside_the_turn(first, tmp_path):
    hooks = pytest.importorskip("accelerate.hooks")

    class Look(hooks.ModelHook):
        def pre_forward(self, module, *args: object, **kwargs: object):
            seen.append(module.mlp.up_proj.weight.sum().item())
            return args, kwargs

    def hooked(model):
        for layer in model.model.layers:
            hooks.add_hook_to_module(layer, Look())
        return model

    seen = []
    reference, path = saved(tmp_path, llama)
    least = least_budget(llama, path, empty)
    module = empty(llama)
    if first == "hook":
        hooked(module)
    loading = streamed(module, path, least)
    if first == "stream":
        hooked(module)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(module(**TOKENS).logits, reference(**TOKENS).logits)
        expected = [layer.mlp.up_proj.weight.sum().item() for layer in reference.model.layers]
        assert seen == 2 * expected
    twin = copy.deepcopy(module)
    assert torch.equal(run(twin, TOKENS["input_ids"]).logits, run(reference, TOKENS["input_ids"]).logits)
    loading.close()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_gives_the_resident_models_values(backend, tmp_path):
    from torch._dynamo.utils import counters

    reference, module, loading = load(tmp_path, llama)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(module, backend=backend)
    graphs = []
    for _ in range(4):
        with torch.no_grad():
            got, expected = compiled(**TOKENS, use_cache=False).logits, reference(**TOKENS, use_cache=False).logits
        assert torch.equal(got, expected)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[1] == graphs[3]  # nothing is compiled again
    assert counters["stats"]["unique_graphs"] >= 3  # blocks are compiled too
    assert counters["stats"]["calls_captured"] > 60
    loading.close()
    torch._dynamo.reset()


def test_a_block_compiled_by_itself_gives_the_resident_models_values(tmp_path):
    for when in ("before", "after"):
        reference, path = saved(tmp_path, llama)
        least = least_budget(llama, path, empty)
        module = empty(llama)
        torch._dynamo.reset()

        def compile_blocks(model):
            for layer in model.model.layers[:2]:
                layer.compile(backend="eager")
            for layer in model.model.layers[2:]:
                layer.forward = torch.compile(layer.forward, backend="eager")

        if when == "before":
            compile_blocks(module)
        loading = streamed(module, path, least)
        if when == "after":
            compile_blocks(module)
        for _ in range(3):
            with torch.no_grad():
                got = module(**TOKENS, use_cache=False).logits
                assert torch.equal(got, reference(**TOKENS, use_cache=False).logits)
        loading.close()
    torch._dynamo.reset()
