"""Choose tensors of a checkpoint by name and dtype, and put them in an order.

Part of `cli`; pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo

__all__ = ["ORDERS", "LayerPart", "Selection", "dtype_option", "match_option", "select"]

match_option = click.option(
    "--match", "globs", multiple=True, metavar="GLOB", help="Only tensors so named, such as '*.mlp.*'; several times."
)
dtype_option = click.option(
    "--dtype", "dtypes", multiple=True, metavar="DTYPE", help="Only tensors of this dtype, such as BF16; several times."
)


class LayerPart(NamedTuple):
    """Hold the chosen tensors of one layer: its name, and the tensors in the layer's own order."""

    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def nbytes(self) -> int:
        """Length of the data of these tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Selection:
    """Hold what was chosen of a checkpoint.

    Attributes:
        checkpoint: Of which; open.
        tensors: In the order that was asked for.
        layers: Those with a chosen tensor, in the order a model runs them.
        whole: Whether nothing was left out.
    """

    checkpoint: Checkpoint
    tensors: tuple[TensorInfo, ...]
    layers: tuple[LayerPart, ...]
    whole: bool

    @property
    def nbytes(self) -> int:
        """Length of the data of the chosen tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def layer_of(self) -> dict[str, str]:
        """Return the layer's name of each chosen tensor, by the tensor's."""
        return {tensor.name: layer.name for layer in self.layers for tensor in layer.tensors}

    def by_shard(self) -> list[list[TensorInfo]]:
        """Return the chosen tensors of each shard; a list for every shard, in their order."""
        shards: list[list[TensorInfo]] = [[] for _ in self.checkpoint.shards]
        for tensor in self.tensors:
            shards[tensor.shard].append(tensor)
        return shards


def select(
    checkpoint: Checkpoint, *, globs: Sequence[str] = (), dtypes: Sequence[str] = (), order: str = "offset"
) -> Selection:
    """Choose tensors of a checkpoint.

    Args:
        checkpoint: Open, for as long as the selection is used.
        globs: Names that any of these matches (`fnmatch`; `*` goes across dots, upper case counts). None: all.
        dtypes: Any of these, in upper or lower case. None: all.
        order: One of `ORDERS`; what is equal in it stands in the order of the files.
    """
    kinds = {dtype.upper() for dtype in dtypes}

    def chosen(tensor: TensorInfo) -> bool:
        named = not globs or any(fnmatchcase(tensor.name, glob) for glob in globs)
        return named and (not kinds or tensor.dtype.upper() in kinds)

    parts = [LayerPart(layer.name, tuple(filter(chosen, layer.tensors))) for layer in checkpoint.layers]
    layers = tuple(part for part in parts if part.tensors)
    number = {tensor.name: at for at, layer in enumerate(layers) for tensor in layer.tensors}
    tensors = sorted(filter(chosen, checkpoint.values()), key=_ORDERS["offset"])
    if order == "layer":
        tensors.sort(key=lambda tensor: number[tensor.name])
    else:
        tensors.sort(key=_ORDERS[order])
    return Selection(checkpoint, tuple(tensors), layers, len(tensors) == len(checkpoint))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts layers.2 before layers.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", name)]


_ORDERS: Final[dict[str, Callable[[TensorInfo], Any]]] = {
    "name": lambda tensor: _natural(tensor.name),
    "size": lambda tensor: -tensor.nbytes,
    "dtype": lambda tensor: tensor.dtype,
    "offset": lambda tensor: (tensor.shard, tensor.start),
}
ORDERS: Final = ("name", "size", "dtype", "layer", "offset")
"""What tensors can be ordered by: natural order of names, largest first, dtype, layer, place in the files."""
