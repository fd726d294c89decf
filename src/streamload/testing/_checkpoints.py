"""Write a Llama-shaped safetensors checkpoint: several shards, an index and a config.

Floor 5. The names, shapes and file order are those of a transformers Llama, so the result opens in anything that
reads one. Weights are random but tame (signed, from 2**-7 to 2**-5), so that a forward over them stays finite.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    import numpy

__all__ = ["LlamaShape", "make_checkpoint"]

_INDEX_NAME = "model.safetensors.index.json"
_BLOCK_BYTES = 16 << 20  # written at a time; bounds the memory this needs whatever the size of a tensor

# Per dtype: its width and the bits kept and set of a random pattern, which leave sign, mantissa and the lowest bit
# of the exponent random and fix the rest of the exponent: magnitudes from 2**-7 up to 2**-5.
_PATTERNS = {"F32": (4, 0x80FFFFFF, 0x3C000000), "BF16": (2, 0x80FF, 0x3C00), "F16": (2, 0x87FF, 0x2000)}
_ONES = {"F32": 0x3F800000, "BF16": 0x3F80, "F16": 0x3C00}
_TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """Choose the dimensions of a Llama-shaped model.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream; a multiple of `heads`.
        heads: Query heads.
        kv_heads: Key and value heads; divides `heads`.
        intermediate: Width of the gated feed-forward part.
        vocab: Rows of the embedding and of the output head, which are not tied.
        dtype: "F32", "BF16" or "F16", the safetensors name.

    Raises:
        ValueError: The dimensions do not divide, or the dtype is another.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    dtype: str = "F32"

    def __post_init__(self) -> None:
        if self.dtype not in _PATTERNS:
            raise ValueError(f"dtype must be one of {', '.join(_PATTERNS)}, got {self.dtype!r}")
        if self.hidden % self.heads or self.heads % self.kv_heads or (self.hidden // self.heads) % 2:
            raise ValueError(
                f"heads ({self.heads}) must divide hidden ({self.hidden}) into even parts and be a multiple of "
                f"kv_heads ({self.kv_heads})"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, headers not counted."""
        return sum(_nbytes(shape, self.dtype) for shape in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """List every tensor's name and shape, in the order of execution."""
        kv_width = self.kv_heads * self.head_width
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            found[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            found[f"{prefix}.self_attn.q_proj.weight"] = (self.hidden, self.hidden)
            found[f"{prefix}.self_attn.k_proj.weight"] = (kv_width, self.hidden)
            found[f"{prefix}.self_attn.v_proj.weight"] = (kv_width, self.hidden)
            found[f"{prefix}.self_attn.o_proj.weight"] = (self.hidden, self.hidden)
            found[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
            found[f"{prefix}.mlp.gate_proj.weight"] = (self.intermediate, self.hidden)
            found[f"{prefix}.mlp.up_proj.weight"] = (self.intermediate, self.hidden)
            found[f"{prefix}.mlp.down_proj.weight"] = (self.hidden, self.intermediate)
        found["model.norm.weight"] = (self.hidden,)
        found["lm_head.weight"] = (self.vocab, self.hidden)
        return found

    def config(self) -> dict[str, object]:
        """Describe the model as transformers' `config.json` does."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": _TORCH_NAMES[self.dtype],
        }


def make_checkpoint(
    directory: str | os.PathLike[str],
    shape: LlamaShape,
    *,
    shards: int = 4,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Write a checkpoint of `shape` into a directory, or keep the one that is already there.

    A checkpoint is kept when its config, shard count, seed and file sizes are those asked for; the config is written
    last, so an interrupted run is written again. The same arguments give the same bytes.

    Args:
        directory: Where the files go; made if it is missing.
        shape: The model's dimensions.
        shards: Number of safetensors files; tensors are spread over them in order, by bytes.
        seed: Of the weights.
        progress: Called with the number of bytes just written; with all of them at once when the files are kept.

    Returns:
        The directory.

    Raises:
        ValueError: There are more shards than tensors, or none.
        OSError: The directory cannot be written.
        ModuleNotFoundError: numpy is not installed.
    """
    target = Path(directory)
    parts = _spread(shape, shards)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    headers = [_header(part, shape.dtype) for part in parts]
    sizes = [
        len(head) + sum(_nbytes(dims, shape.dtype) for dims in part.values())
        for head, part in zip(headers, parts, strict=True)
    ]
    config = json.dumps({**shape.config(), "streamload_testing": {"shards": shards, "seed": seed}}, indent=2) + "\n"
    tell = progress or (lambda _: None)
    if _is_there(target, names, sizes, config):
        tell(shape.nbytes)
        return target

    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").unlink(missing_ok=True)
    for number, (name, head, part) in enumerate(zip(names, headers, parts, strict=True)):
        _write_shard(target / name, head, part, shape.dtype, seed=(seed, number), tell=tell)
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {"metadata": {"total_size": shape.nbytes}, "weight_map": weight_map}
    (target / _INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (target / "config.json").write_text(config, encoding="utf-8")
    return target


def _nbytes(shape: tuple[int, ...], dtype: str) -> int:
    count = _PATTERNS[dtype][0]
    for extent in shape:
        count *= extent
    return count


def _spread(shape: LlamaShape, shards: int) -> list[dict[str, tuple[int, ...]]]:
    tensors = shape.tensors()
    if not 1 <= shards <= len(tensors):
        raise ValueError(f"shards must be from 1 to {len(tensors)} (the number of tensors), got {shards}")
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shards)]
    placed, shard = 0, 0
    for done, (name, dims) in enumerate(tensors.items()):
        part_is_full = placed >= shape.nbytes * (shard + 1) / shards
        must_open = len(tensors) - done == shards - shard - 1  # each later shard still needs one tensor
        if parts[shard] and shard + 1 < shards and (part_is_full or must_open):
            shard += 1
        parts[shard][name] = dims
        placed += _nbytes(dims, shape.dtype)
    return parts


def _header(tensors: dict[str, tuple[int, ...]], dtype: str) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dims in tensors.items():
        end = offset + _nbytes(dims, dtype)
        entries[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _is_there(directory: Path, names: list[str], sizes: list[int], config: str) -> bool:
    try:
        found = [(directory / name).stat().st_size for name in names]
        return found == sizes and (directory / "config.json").read_text(encoding="utf-8") == config
    except FileNotFoundError:
        return False


def _write_shard(
    path: Path,
    header: bytes,
    tensors: dict[str, tuple[int, ...]],
    dtype: str,
    *,
    seed: tuple[int, int],
    tell: Callable[[int], object],
) -> None:
    import numpy

    rng = numpy.random.Generator(numpy.random.SFC64(seed))
    with path.open("wb") as file:
        file.write(header)
        for dims in tensors.values():
            blocks = _ones(dims, dtype) if len(dims) == 1 else _random_blocks(rng, _nbytes(dims, dtype), dtype)
            for block in blocks:
                file.write(block)
                tell(len(block))


def _ones(shape: tuple[int, ...], dtype: str) -> Iterator[bytes]:
    yield _ONES[dtype].to_bytes(_PATTERNS[dtype][0], "little") * shape[0]


def _random_blocks(rng: numpy.random.Generator, nbytes: int, dtype: str) -> Iterator[memoryview]:
    import numpy

    width, keep, fixed = _PATTERNS[dtype]
    kind = numpy.dtype(f"<u{width}")
    for start in range(0, nbytes, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, nbytes - start)
        words = rng.integers(0, 2**64 - 1, -(-size // 8), dtype=numpy.uint64, endpoint=True)
        values = words.view(kind)
        values &= kind.type(keep)
        values |= kind.type(fixed)
        yield values.data.cast("B")[:size]
