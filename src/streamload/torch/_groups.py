"""Cut tensors in their order of use into groups: the unit that is waited for.

Floor 4, part of `torch`; pure. One group is one event on the device, so groups are small enough that compute starts
early and large enough that an event costs nothing. Read next: `_submit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo

GROUP_BYTES = 16 << 20
"""A group closes once it holds this much: 0.3 ms of a PCIe 5 link, against some 10 µs for an event and a wake (the
16–64 MB that shipping layer streamers issue at once, at its lower end so that the first group is early)."""

SMALL_BYTES = 1 << 20
"""Tensors below this come first in their layer: norms and biases are used early and often registered last, and 1 MiB
is 0.02 ms of a PCIe 5 link."""

T = TypeVar("T")


def cut(items: Sequence[T], nbytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield the tensors of one layer as groups: small ones first, then in the given order."""
    ordered = sorted(items, key=lambda item: nbytes(item) >= SMALL_BYTES)
    group: list[T] = []
    size = 0
    for item in ordered:
        group.append(item)
        size += nbytes(item)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def layers_in_order(items: Iterable[T], checkpoint: Checkpoint, info: Callable[[T], TensorInfo]) -> list[list[T]]:
    """Gather items by the checkpoint's layers, layers in the order in which their first item comes."""
    layer_of = {tensor.name: index for index, layer in enumerate(checkpoint.layers) for tensor in layer.tensors}
    gathered: dict[int, list[T]] = {}
    for item in items:
        gathered.setdefault(layer_of[info(item).name], []).append(item)
    return list(gathered.values())
