"""What is loaded: a Llama-shaped model that was written for it, or any checkpoint that transformers has a class for.

Part of `_models`. A `Subject` knows how to build its module without weights and how to compute the first token; it
loads nothing. `load_plainly` is the reference that every other way of loading is compared with: safetensors alone.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .._checkpoint import open as open_checkpoint
from ..errors import StreamloadError
from ._accelerator import build_paced_llama
from ._llama import build_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..testing import LlamaShape

__all__ = ["Subject", "SubjectError", "load_plainly", "own_subject", "transformers_subject"]

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}

_TENTH = 0.10
_MOST_TOKENS = 16_384


class SubjectError(StreamloadError):
    """Report a model that cannot be computed with, or not as asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Hold one checkpoint and how to compute with it.

    Attributes:
        title: What it is, in a few words.
        path: Directory of the checkpoint.
        layers: Its layers in execution order.
        nbytes: Bytes of all its tensors.
        tokens: Length of the prompt.
        most_tokens: The longest prompt it is computed with.
        vocab: Ids are below this.
        first_layer_most: Part of the bytes that may have arrived when the first layer begins; None sets no limit.
        build: Makes the module: parameters on meta, buffers real.
        compute: Maps the module and token ids (1, tokens) to the output whose largest entry is the first token.
    """

    title: str
    path: Path
    layers: tuple[str, ...]
    nbytes: int
    tokens: int
    most_tokens: int
    vocab: int
    first_layer_most: float | None
    build: Callable[[], nn.Module]
    compute: Callable[[nn.Module, torch.Tensor], torch.Tensor]

    def prompt(self, device: str) -> torch.Tensor:
        """Return the same random token ids on every call, shape (1, tokens), int64."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, self.vocab, (1, self.tokens), generator=generator).to(device)


def own_subject(path: Path, shape: LlamaShape, tokens: int, operations_per_second: float | None = None) -> Subject:
    """Describe a Llama-shaped checkpoint that `testing.make_checkpoint` wrote.

    Args:
        path: Its directory.
        shape: What it was written by.
        tokens: Length of the prompt.
        operations_per_second: Of a simulated accelerator that computes; None computes for real.
    """

    def compute(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = module(ids)
        return output

    layers, nbytes, _ = _read_headers(path)
    title = f"Llama-shaped, {shape.layers} layers, {shape.dtype}"

    def build() -> nn.Module:
        return build_llama(shape) if operations_per_second is None else build_paced_llama(shape, operations_per_second)

    return Subject(title, path, layers, nbytes, tokens, _MOST_TOKENS, shape.vocab, _TENTH, build, compute)


def transformers_subject(path: Path, tokens: int, device: str) -> Subject:
    """Describe a checkpoint directory by its `config.json`, computed by transformers' own class.

    Raises:
        SubjectError: transformers is missing or has no such class.
        FileNotFoundError: There is no such directory, or no config in it.
        FormatError: The checkpoint is not valid.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise SubjectError(
            "a model of your own needs transformers, to know how it computes: pip install transformers"
        ) from error
    layers, nbytes, dtype = _read_headers(path)
    config_path = path / "config.json"
    names = json.loads(config_path.read_text(encoding="utf-8")).get("architectures") or ["(none)"]
    kind = getattr(transformers, names[0], None)
    if kind is None:
        raise SubjectError(f"{config_path}: transformers {transformers.__version__} has no class {names[0]}")
    config = transformers.AutoConfig.from_pretrained(path)

    def build() -> nn.Module:
        with torch.device(device), _parameters_on_meta(), _default_dtype(dtype):
            module: nn.Module = kind(config)
        return module.requires_grad_(False).eval()

    def compute(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        output = module(input_ids=ids)
        logits: torch.Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
        return logits[:, -1]

    text_config = config.get_text_config()
    most = min(_MOST_TOKENS, getattr(text_config, "max_position_embeddings", None) or _MOST_TOKENS)
    if tokens > most:
        raise SubjectError(f"{path}: the model takes prompts of at most {most} tokens here, got {tokens}")
    return Subject(names[0], path, layers, nbytes, tokens, most, text_config.vocab_size, None, build, compute)


def load_plainly(subject: Subject, device: str, module: nn.Module | None = None) -> nn.Module:
    """Load a subject the way everyone does without us: safetensors' `load_file` and `load_state_dict`.

    Args:
        subject: What to load.
        device: Where to.
        module: What `subject.build` made, where that is not to be timed.

    Raises:
        SubjectError: The checkpoint lacks some of the module's parameters.
    """
    from safetensors.torch import load_file

    module = subject.build() if module is None else module
    state: dict[str, torch.Tensor] = {}
    with open_checkpoint(subject.path) as checkpoint:
        files = [shard.url for shard in checkpoint.shards]
    for file in files:
        state |= load_file(file, device=device)
    if device == "cpu":  # safetensors maps the file; copied, every tensor is aligned as torch aligns its own
        state = {name: tensor.clone() for name, tensor in state.items()}
    module.load_state_dict(state, strict=False, assign=True)
    tie_weights = getattr(module, "tie_weights", None)
    if callable(tie_weights):
        tie_weights()
    lacking = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if lacking:
        raise SubjectError(
            f"{subject.path}: {lacking[0]!r} is in the module, not in the checkpoint ({len(lacking)} such); taken "
            "are models whose checkpoint holds every one of the module's parameters under its own name"
        )
    return module.requires_grad_(False).eval()


def _read_headers(path: Path) -> tuple[tuple[str, ...], int, torch.dtype]:
    """Return a checkpoint's layers, its bytes, and the dtype most of them are in."""
    with open_checkpoint(path) as checkpoint:
        nbytes: dict[str, int] = {}
        for tensor in checkpoint.values():
            nbytes[tensor.dtype] = nbytes.get(tensor.dtype, 0) + tensor.nbytes
        layers = tuple(layer.name for layer in checkpoint.layers)
        total = checkpoint.nbytes
    common = max(nbytes, key=lambda name: nbytes[name], default="F32")
    if common not in _DTYPES:
        raise SubjectError(f"{path}: most of it is {common}, which a plain forward does not compute in")
    return layers, total, _DTYPES[common]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Give every parameter made in here shape and dtype but no memory; buffers stay real, for no file has them."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]  # as it was
