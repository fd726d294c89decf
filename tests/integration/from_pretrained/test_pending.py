"""What others do with a model whose weights are still arriving: what they get from one that was loaded, or they wait.

Fused experts, and weights that are cast, are among those that arrive.
"""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from streamload.options import StreamOptions  # noqa: E402 - after the skips
from streamload.transformers import patch  # noqa: E402 - after the skips

from . import zoo  # noqa: E402 - needs torch
from .compare import differences  # noqa: E402 - needs torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]

CASES = {
    "direct": ("qwen3", "auto"),
    "fused": ("mixtral", "auto"),
    "cast": ("llama", torch.bfloat16),
    "fused and cast": ("qwen2_moe", torch.bfloat16),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request, saved):
    """A model loaded by stock, whose weights are its own, and the same still arriving over poisoned memory."""
    name, dtype = request.param
    kind, directory = saved(name)
    stock = kind.from_pretrained(directory, dtype=dtype)
    for tensor in (*stock.parameters(), *stock.buffers()):
        tensor.data = tensor.data.clone()
    with patch(options=StreamOptions(debug=True)):
        streamed = kind.from_pretrained(directory, dtype=dtype)
    return stock, streamed, zoo.inputs(name, dtype=stock.dtype)


def same(left, right):
    """Whether two nests of tensors hold the same bits."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return len(left) == len(right) and all(same(*both) for both in zip(left, right, strict=True))


def logits(model, given):
    """Compute without gradients."""
    with torch.no_grad():
        return model(**given).logits


def trained(model, given):
    """Take a step of AdamW, and return a few weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(**given).logits.float().square().mean().backward()
    optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def saved_state(model, given):
    """Save the state dict by torch, and read it back."""
    del given
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer)


def resized(model, given):
    """Add rows to the embedding: the new ones are drawn by chance, the old ones stay."""
    torch.manual_seed(3)
    rows = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(rows + 4)
    return logits(model, given)[..., :rows]


def in_two_threads(model, given):
    """Compute in two threads at once."""
    with ThreadPoolExecutor(2) as pool:
        return [answer.result(60) for answer in [pool.submit(logits, model, given) for _ in range(2)]]


@torch.no_grad()
def parts_alone(model, given):
    """Call modules on their own, the last ones first."""
    hidden = model.get_input_embeddings()(given["input_ids"])
    *_, last = model.model.layers
    parts = model.lm_head, model.model.norm, last.input_layernorm, last.self_attn.q_proj
    return [part(hidden) for part in parts]


USES = {
    "forward": logits,
    "two threads": in_two_threads,
    "inference mode": lambda model, given: torch.inference_mode()(lambda: model(**given).logits.clone())(),
    "generate": lambda model, given: model.generate(**given, max_new_tokens=3, do_sample=False, pad_token_id=0),
    "static cache": lambda model, given: model.generate(
        **given, max_new_tokens=3, do_sample=False, pad_token_id=0, cache_implementation="static"
    ),
    "backward and AdamW": trained,
    "state_dict": lambda model, given: dict(model.state_dict()),
    "torch.save": saved_state,
    "deepcopy": lambda model, given: logits(copy.deepcopy(model), given),
    "pickle": lambda model, given: logits(pickle.loads(pickle.dumps(model)), given),
    "to float64": lambda model, given: dict(model.to(torch.float64).state_dict()),
    "to bfloat16": lambda model, given: dict(model.to(torch.bfloat16).state_dict()),
    "numpy": lambda model, given: [torch.from_numpy(p.detach().float().numpy().copy()) for p in model.parameters()],
    "data": lambda model, given: [parameter.data.clone() for parameter in model.parameters()],
    "functional_call": lambda model, given: torch.func.functional_call(
        model, dict(model.named_parameters()), (), given
    ).logits.detach(),
    "resize_token_embeddings": resized,
    "parts by themselves": parts_alone,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_whoever_uses_it_early_gets_what_stock_gives(use, pair):
    stock, streamed, given = pair
    found = use(streamed, given)
    assert same(found, use(stock, given))
    streamed.streamload.wait(timeout=60)


def test_saved_while_it_arrives_it_is_the_same_model(pair, tmp_path):
    stock, streamed, _ = pair
    streamed.save_pretrained(tmp_path)
    again = type(stock).from_pretrained(tmp_path, dtype="auto")
    assert differences(stock, again) == []


ADAPTERS = {
    "lora": {},
    "dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "pissa": {"init_lora_weights": "pissa"},  # reads the base's weights, and writes them
}


@pytest.mark.parametrize("kind", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_an_adapter_put_on_while_it_arrives(kind, pair):
    peft = pytest.importorskip("peft")
    stock, streamed, given = pair
    outputs = []
    for model in (streamed, stock):
        torch.manual_seed(5)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **kind)
        adapted = peft.get_peft_model(model, config).eval()
        outputs.append(logits(adapted, given))
        outputs.append(logits(adapted.merge_and_unload(), given))
    assert same(outputs[:2], outputs[2:])


def test_it_sleeps_and_wakes_as_the_same_objects(pair):
    stock, streamed, given = pair
    handle = streamed.streamload
    handle.wait(timeout=60)
    before = {name: id(parameter) for name, parameter in streamed.named_parameters()}
    for _ in range(3):
        handle.sleep()
        assert handle.asleep
        with pytest.raises(Exception, match="asleep"):
            logits(streamed, given)
        handle.wake()
        assert same(logits(streamed, given), logits(stock, given))
        handle.wait(timeout=60)
    assert {name: id(parameter) for name, parameter in streamed.named_parameters()} == before
    del streamed.streamload
    assert differences(stock, streamed) == []


HOOKS = {
    "dispatch_model": lambda accelerate, model: accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True),
    "cpu_offload": lambda accelerate, model: accelerate.cpu_offload(model, "cpu"),
}


@pytest.mark.parametrize("put", HOOKS.values(), ids=HOOKS.keys())
def test_hooks_of_accelerate_put_on_while_it_arrives(put, pair):
    accelerate = pytest.importorskip("accelerate")
    stock, streamed, given = pair
    for model in (streamed, stock):
        put(accelerate, model)
    assert same([logits(streamed, given), logits(streamed, given)], [logits(stock, given)] * 2)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch's, of the call itself
@pytest.mark.parametrize("pair", [("gpt2", "auto"), ("bert", "auto"), ("llama", "auto")], indirect=True, ids=str)
def test_quantised_to_8_bits_while_it_arrives(pair):
    stock, streamed, given = pair
    quantized = [
        torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        for model in (streamed, stock)
    ]
    assert any("quantized.dynamic" in type(module).__module__ for module in quantized[0].modules())
    assert same(*[logits(model, given) for model in quantized])


def compile_layers(model, backend):
    """Compile each layer by itself."""
    for layer in model.model.layers:
        layer.compile(backend=backend)
    return model


COMPILERS = {
    "whole model": lambda model, backend: torch.compile(model, backend=backend),
    "each layer": compile_layers,
}


@pytest.fixture
def _fresh_dynamo():
    """Compile as if nothing had been compiled before."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.filterwarnings("ignore:.*functools.lru_cache:UserWarning")  # in transformers' experts
@pytest.mark.parametrize("compiler", COMPILERS.values(), ids=COMPILERS.keys())
def test_compiled_while_it_arrives(compiler, pair):
    stock, streamed, given = pair
    compiled = compiler(streamed, "eager")
    assert same(logits(compiled, given), logits(stock, given))
    streamed.streamload.wait(timeout=60)
    assert same(logits(compiled, given), logits(stock, given))


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # inductor's own
@pytest.mark.parametrize("compiler", COMPILERS.values(), ids=COMPILERS.keys())
@pytest.mark.parametrize("pair", [("llama", "auto"), ("llama", torch.bfloat16)], indirect=True, ids=str)
def test_compiled_by_inductor_while_it_arrives(compiler, pair):
    stock, streamed, given = pair
    compiled = compiler(streamed, "inductor")
    first = logits(compiled, given)
    streamed.streamload.wait(timeout=60)
    assert same(logits(compiled, given), first)
    torch._dynamo.reset()
    assert same(first, logits(compiler(stock, "inductor"), given))
