"""The models the demo can write for itself.

Floor 6; stdlib only. In each, the first decoder layer and all before it hold less than a tenth of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..testing import LlamaShape

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Hold one model's dimensions, its number of files and the length of prompt that suits it."""

    shape: LlamaShape
    shards: int
    tokens: int


def _shape(
    layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, vocab: int, dtype: str
) -> LlamaShape:
    return LlamaShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        intermediate=intermediate,
        vocab=vocab,
        dtype=dtype,
    )


# By scale and kind of device. The processor computes float32 and a short prompt; a GPU computes bfloat16 and the
# thousands of tokens it takes to keep it about as busy as its link.
SCALES: Mapping[tuple[str, str], Scale] = MappingProxyType(
    {
        ("tiny", "cpu"): Scale(_shape(16, 128, 4, 2, 384, 512, "F32"), 3, 512),
        ("tiny", "cuda"): Scale(_shape(16, 128, 4, 2, 384, 512, "BF16"), 3, 512),
        ("small", "cpu"): Scale(_shape(20, 1024, 16, 16, 2816, 8192, "F32"), 4, 128),
        ("small", "cuda"): Scale(_shape(18, 1536, 12, 12, 4096, 8192, "BF16"), 4, 4096),
        ("large", "cpu"): Scale(_shape(40, 2048, 16, 8, 5632, 16384, "F32"), 8, 128),
        ("large", "cuda"): Scale(_shape(20, 4096, 32, 8, 14336, 32000, "BF16"), 8, 8192),
    }
)
