"""Put layers together that a picture has no room to show one by one.

Part of `_trace`; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["layer_groups"]


def layer_groups(layers: Sequence[str], most: int) -> dict[str, list[str]]:
    """Put consecutive layers together until there are at most `most` rows; each gets a short label.

    Returns:
        Label to layers, in order: "layers.0", or "layers.0 … 3" for several.
    """
    each = -(-len(layers) // most)
    short = [_short(layer) for layer in layers]
    groups: dict[str, list[str]] = {}
    for start in range(0, len(layers), each or 1):
        part = list(layers[start : start + each])
        label = short[start] if len(part) == 1 else _from_to(short[start], short[start + len(part) - 1])
        groups[label if label not in groups else part[0]] = part
    return groups


def _from_to(first: str, last: str) -> str:
    before, dot, number = last.rpartition(".")
    return f"{first} … {number if dot and first.startswith(before + dot) else last}"


def _short(layer: str) -> str:
    return layer.removeprefix("model.") or "(rest)"
