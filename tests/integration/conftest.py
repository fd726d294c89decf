"""What the torch tests share: a small model, its file, slow links, and fresh memory that is never right by chance."""

from __future__ import annotations

import ctypes

import pytest

LINK_BYTES_PER_SECOND = 4e6  # the model below takes 0.1 s


@pytest.fixture
def one_thread():
    """Let torch compute in one thread: its own spin, which tiny models on a shared machine pay dearly for."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def nan_memory(monkeypatch):
    """Fill what torch allocates, and new host blocks, with 0xFF bytes, which read as NaN: too early a read shows.

    And let torch take one path through attention, in flight or not: its fused one wants tensors without a gate.
    """
    import torch

    from streamload.torch import _memory

    def filled_blocks(sizes):
        blocks = make_host_blocks(sizes)
        for block in blocks:
            ctypes.memset(block.address, 0xFF, block.nbytes)
        return blocks

    make_host_blocks = _memory.make_host_blocks
    monkeypatch.setattr(_memory, "make_host_blocks", filled_blocks)

    torch.backends.mha.set_fastpath_enabled(False)

    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(8, dtype=torch.uint8).view(torch.float32).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.fixture
def slow_engine():
    """A copy engine over a paced link that spoils what it lets go of."""
    from streamload._engine import CopyEngine
    from streamload._native import HostDevice

    device = HostDevice(link_bytes_per_second=LINK_BYTES_PER_SECOND, poison=True)
    with CopyEngine(device) as engine:
        yield engine


@pytest.fixture
def stalled_engine():
    """A copy engine over a link so slow that the model below is in flight until the load is cancelled."""
    from streamload._engine import CopyEngine
    from streamload._native import HostDevice

    with CopyEngine(HostDevice(link_bytes_per_second=5e3, poison=True)) as engine:
        yield engine


@pytest.fixture
def build():
    """A function that makes the model, real or on meta: tied weights, buffers, a norm, an RNN, attention."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(64, 48)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True) for _ in range(3)
            )
            self.rnn = nn.GRU(48, 48, batch_first=True)
            self.norm = nn.BatchNorm1d(48)
            self.head = nn.Linear(48, 64, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            hidden = self.embed(ids)
            for layer in self.layers:
                hidden = layer(hidden)
            hidden, _ = self.rnn(hidden)
            return self.head(self.norm(hidden.transpose(1, 2)).transpose(1, 2))

    def make(device="cpu"):
        with torch.device(device):
            return Model().eval()

    return make


@pytest.fixture
def reference(build):
    """The model the usual way, with numbers from a fixed seed."""
    import torch

    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.01, 0.2)
    return model


@pytest.fixture
def model_path(reference, tmp_path):
    """The model's file."""
    from safetensors.torch import save_model

    path = tmp_path / "model.safetensors"
    save_model(reference, path)
    return path


SMALL_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}


class TransformersModels:
    """Tiny models of the transformers library by name: saved once, loaded the usual way, or built on meta.

    Stays off the hub, and warns of nothing.
    """

    def __init__(self, root):
        self._root = root

    def _made_of(self, name):
        import transformers as t

        small = SMALL_DECODER
        return {
            "llama": lambda: (t.LlamaForCausalLM, t.LlamaConfig(**small)),
            "llama-tied": lambda: (t.LlamaForCausalLM, t.LlamaConfig(**small, tie_word_embeddings=True)),
            "qwen3-moe": lambda: (
                t.Qwen3MoeForCausalLM,
                t.Qwen3MoeConfig(**small, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
            ),
            "t5": lambda: (
                t.T5ForConditionalGeneration,
                t.T5Config(
                    vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
                ),
            ),
            "gpt2": lambda: (
                t.GPT2LMHeadModel,
                t.GPT2Config(
                    vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
                ),
            ),
            "vit": lambda: (
                t.ViTForImageClassification,
                t.ViTConfig(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    intermediate_size=64,
                    image_size=16,
                    patch_size=4,
                ),
            ),
        }[name]()

    def directory(self, name):
        """Where a model is saved, with numbers from a fixed seed and layers in different ranges."""
        import torch

        path = self._root / name
        if not path.exists():
            kind, config = self._made_of(name)
            torch.manual_seed(0)
            model = kind(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            model.save_pretrained(path, save_original_format=False)  # the model's own names, experts as they are
        return path

    def stock(self, name, **chosen: object):
        """Load a model as its users do. Its parameters are aligned as ours are: kernels may depend on it."""
        model = self._made_of(name)[0].from_pretrained(self.directory(name), **chosen).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model

    def empty(self, name, **chosen: object):
        """Build a model with its parameters on meta and its buffers real."""
        from accelerate import init_empty_weights

        kind, config = self._made_of(name)
        saved = type(config).from_pretrained(self.directory(name))
        with init_empty_weights(include_buffers=False):
            model = kind._from_config(saved, **chosen).eval()
        model.tie_weights()
        return model

    def inputs(self, name, *, seed=3):
        """What a model's forward takes, by keyword."""
        import torch

        numbers = torch.Generator().manual_seed(seed)
        if name == "vit":
            return {"pixel_values": torch.rand(2, 3, 16, 16, generator=numbers)}
        ids = {"input_ids": torch.randint(3, 64, (2, 9), generator=numbers)}
        return {**ids, "decoder_input_ids": ids["input_ids"][:, :4]} if name == "t5" else ids


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The tiny transformers models."""
    return TransformersModels(tmp_path_factory.mktemp("models"))


@pytest.fixture
def start_held(slow_engine, monkeypatch, one_thread):
    """A function that starts filling a module from a directory; not one read is done before its first real use.

    Extra keywords go to the `FaultySource` that stands before each shard. What is still in flight afterwards is cut
    off.
    """
    import threading
    from dataclasses import replace

    import streamload
    from streamload._checkpoint import Checkpoint
    from streamload.testing import FaultySource
    from streamload.torch import stream_module
    from streamload.torch._module_load import ModuleLoad

    used, started = threading.Event(), []
    for use in ("order", "look_up"):
        whole = getattr(ModuleLoad, use)
        monkeypatch.setattr(ModuleLoad, use, lambda *args, whole=whole: (used.set(), whole(*args))[1])

    def start(module, directory, *, block_hooks=False, **faults: object):
        used.clear()
        opened = streamload.open(directory)
        held = {"hold": dict.fromkeys(range(10_000), used), **faults}
        shards = [replace(shard, source=FaultySource(shard.source, **held)) for shard in opened.shards]
        checkpoint = Checkpoint(opened.url, shards, dict(opened))
        loading = stream_module(module, checkpoint, "cpu", block_hooks=block_hooks, engine=slow_engine)
        started.append((loading, opened))
        assert not loading.done
        assert loading.stats().bytes_read == 0
        return loading

    yield start
    used.set()
    for loading, opened in started:
        loading.close()
        opened.close()


def _leftovers(module):
    """What a load has left in a module; nothing, once it is over."""
    import torch

    found = []
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        plain = torch.nn.Parameter if isinstance(tensor, torch.nn.Parameter) else torch.Tensor
        if type(tensor) is not plain or [key for key in tensor.__dict__ if "streamload" in key]:
            found.append(name)
    for name, owner in module.named_modules():
        hooks = (owner._forward_pre_hooks, owner._forward_hooks, owner._backward_hooks, owner._backward_pre_hooks)
        if any(hooks) or "forward" in owner.__dict__:
            found.append(f"hooks of {name}")
    return found


@pytest.fixture(scope="session")
def leftovers():
    """A function that names what a load has left in a module."""
    return _leftovers


@pytest.fixture(scope="session")
def assert_same():
    """A function that compares outputs of models bit for bit, whatever dataclasses, tuples and dicts they are in."""
    import torch

    def flatten(value):
        if isinstance(value, torch.Tensor):
            return [value]
        if isinstance(value, (bool, int, float, str, type(None))):
            return [torch.tensor(0)]
        if isinstance(value, dict):
            return [tensor for item in value.values() for tensor in flatten(item)]
        if isinstance(value, (list, tuple)):
            return [tensor for item in value for tensor in flatten(item)]
        if hasattr(value, "layers"):  # a cache of keys and values
            return [tensor for layer in value.layers for tensor in (layer.keys, layer.values)]
        return flatten([value.self_attention_cache, value.cross_attention_cache])

    def compare(got, expected):
        left, right = flatten(got), flatten(expected)
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert not type(one).__name__.startswith("Arriving")
            assert one.dtype == other.dtype
            assert not (one.is_floating_point() and one.isnan().any())
            assert torch.equal(one, other)

    return compare
