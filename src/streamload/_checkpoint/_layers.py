"""Group tensors into layers and put the layers in the order a model runs them, by names alone.

Part of `_checkpoint`; pure. A wrong guess costs time, never a wrong byte: whoever needs a layer early asks for it.

The rule. Split a name at its dots. A *block* is the name up to and including its first all-digit part
(`model.layers.10`, `h.3`, `encoder.layer.5`); everything below it, experts included, is one layer. A name without
one is cut where it leaves the trunk, that is the paths that lead to blocks (`model.embed_tokens`, `bert.pooler`,
`lm_head`). Layers are then sorted part by part: numbers by value, words by `_RANKS` (embeddings, encoder or vision
tower, blocks, decoder, norm, head) and naturally within a rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._format import TensorInfo

_MAX_PARTS = 16  # deeper parts of a name are not looked at: bounds the work on hostile names
_BLOCK = re.compile(r"(?:[^.]*\.){0,15}?[0-9]+(?![^.])")
_NUMBER = re.compile(r"([0-9]+)")

# The first pattern found in a part of a name gives its rank. Words that only look early or late come first.
_RANKS = (
    ("embed_out|conv_out|proj_out|project_out|^cls$|projection$", 9),
    ("emb|^wte$|^wpe$|token|^shared$|patch|position|pos_|feature|project_in|^time_", 0),
    ("^pre_|stem|^conv_in$|^(conv|bn)[0-9]$", 0),
    ("norm|^ln_|pooler|merger", 8),
    ("head|classifier|score|logit|output", 9),
    ("projector|connector|resampler|qformer|^mid", 2),
    ("decoder|language|^up|single", 4),
    ("encoder|vision|visual|audio|speech|^down", 1),
)
_RANK_TRUNK = 3
_RANK_OTHER = 5

_PartKey = tuple[int, tuple[tuple[int, int, str], ...]]


@dataclass(frozen=True, slots=True)
class Layer:
    """Hold the tensors that a model needs together.

    Attributes:
        name: What the names of its tensors have in common, such as `model.layers.10` or `lm_head`.
        tensors: Its tensors, small ones first, those of one size in file order.
    """

    name: str
    tensors: tuple[TensorInfo, ...]

    def __repr__(self) -> str:
        return f"Layer({self.name!r}, {len(self.tensors)} tensors, {self.nbytes} bytes)"

    @property
    def nbytes(self) -> int:
        """Length of the data of all its tensors in bytes."""
        return sum([tensor.nbytes for tensor in self.tensors])


def group_layers(tensors: Iterable[TensorInfo]) -> tuple[Layer, ...]:
    """Group tensors into layers, in the order a model is expected to run them; every tensor is in exactly one.

    Args:
        tensors: Tensors of one checkpoint, in any order; the result does not depend on it.
    """
    blocks: dict[str, list[TensorInfo]] = {}
    loose: list[TensorInfo] = []
    last, block = "\0", loose  # what the names of the last tensor's block begin with; no name holds NUL
    for tensor in tensors:
        if not tensor.name.startswith(last):
            match = _BLOCK.match(tensor.name)
            if match is None:
                loose.append(tensor)
                continue
            last, block = f"{match[0]}.", blocks.setdefault(match[0], [])
        block.append(tensor)
    trunk = _ancestors(blocks)
    groups = blocks
    for tensor in loose:
        groups.setdefault(_leave_trunk(tensor.name, trunk), []).append(tensor)
    known: dict[tuple[str, bool], _PartKey] = {}
    ordered = sorted(groups, key=lambda name: (_layer_key(name, trunk, known), name))
    return tuple([Layer(name, tuple(sorted(groups[name], key=_small_first))) for name in ordered])


def _ancestors(blocks: Iterable[str]) -> set[str]:
    """Return every path above a block: of `model.layers.0`, `model` and `model.layers`."""
    trunk: set[str] = set()
    for block in blocks:
        path, _, _ = block.rpartition(".")
        while path and path not in trunk:
            trunk.add(path)
            path, _, _ = path.rpartition(".")
    return trunk


def _leave_trunk(name: str, trunk: set[str]) -> str:
    end = name.find(".")
    for _ in range(_MAX_PARTS):
        if end < 0:
            return name
        if name[:end] not in trunk:
            return name[:end]
        end = name.find(".", end + 1)
    return name


def _layer_key(name: str, trunk: set[str], known: dict[tuple[str, bool], _PartKey]) -> tuple[_PartKey, ...]:
    keys: list[_PartKey] = []
    path = ""
    for part in name.split(".", _MAX_PARTS):
        path = f"{path}.{part}" if path else part
        case = part, path in trunk
        if case not in known:
            known[case] = _rank(part, in_trunk=path in trunk), natural_key(part)
        keys.append(known[case])
    return tuple(keys)


def _rank(part: str, *, in_trunk: bool) -> int:
    if part.isdigit():
        return _RANK_TRUNK
    for pattern, rank in _RANKS:
        if re.search(pattern, part):
            return rank
    return _RANK_TRUNK if in_trunk else _RANK_OTHER


def natural_key(part: str) -> tuple[tuple[int, int, str], ...]:
    """Order digits by value and before words: `layer2` before `layer10`. By length, as int() limits digits."""
    key: list[tuple[int, int, str]] = []
    for index, piece in enumerate(_NUMBER.split(part)):
        digits = piece.lstrip("0")
        key.append((0, len(digits), digits) if index % 2 else (1, 0, piece))
    return tuple(key)


def _small_first(tensor: TensorInfo) -> tuple[int, int, int, str]:
    start = tensor.start
    return tensor.end - start, tensor.shard, start, tensor.name
