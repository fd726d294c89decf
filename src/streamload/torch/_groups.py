"""Cut tensors in their order of use into groups: the unit that is waited for.

Floor 4, part of `torch`; pure. One group is one event on the device, so groups are small enough that compute starts
early and large enough that an event costs nothing. Read next: `_submit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .._checkpoint import Checkpoint

GROUP_BYTES = 16 << 20
"""A group closes once it holds this much: 0.3 ms of a PCIe 5 link, against some 10 µs for an event and a wake (the
16–64 MB that shipping layer streamers issue at once, at its lower end so that the first group is early)."""

LEAST_GROUP_BYTES, GROUPS = 1 << 20, 512
"""A load that computing begins before has at least this many groups, as long as they are no smaller than that: what is
waited for at its beginning, and left at its end, is a small part of it, however small the model."""

SMALL_BYTES = 1 << 20
"""Tensors below this come first in their layer: norms and biases are used early and often registered last, and 1 MiB
is 0.02 ms of a PCIe 5 link."""

T = TypeVar("T")


def group_bytes(total: int) -> int:
    """Return what a group of a load of so many bytes closes at, where computing begins before it ends."""
    return max(LEAST_GROUP_BYTES, min(total // GROUPS, GROUP_BYTES))


def cut(items: Sequence[T], nbytes: Callable[[T], int], closes_at: int | None = None) -> Iterator[list[T]]:
    """Yield the tensors of one layer as groups: small ones first, then in the given order.

    Args:
        items: The tensors.
        nbytes: Of each.
        closes_at: Bytes that close a group; None: `GROUP_BYTES`.
    """
    closes_at = GROUP_BYTES if closes_at is None else closes_at
    sized = [(item, nbytes(item)) for item in items]
    if len({size >= SMALL_BYTES for _, size in sized}) > 1:
        sized.sort(key=lambda pair: pair[1] >= SMALL_BYTES)
    group: list[T] = []
    total = 0
    for item, size in sized:
        group.append(item)
        total += size
        if total >= closes_at:
            yield group
            group, total = [], 0
    if group:
        yield group


def layers_in_order(
    items: Iterable[T],
    checkpoint: Checkpoint,
    name: Callable[[T], str],
    *,
    order: Sequence[str] = (),
    last: Callable[[T], bool] = lambda _: False,
) -> list[tuple[str, list[T]]]:
    """Gather items by the checkpoint's layers: name and items of each.

    Args:
        items: In the order in which layers are to stand, by their first item.
        checkpoint: Whose layers.
        name: The tensor of the checkpoint that an item is, or begins with.
        order: Names of layers that come before all others, in this order; names of no layer are passed over.
        last: Items that go behind everything, as layers of their own, unless `order` names their layer.
    """
    layer_of = {tensor.name: layer.name for layer in checkpoint.layers for tensor in layer.tensors}
    gathered: dict[str, list[T]] = {name: [] for name in order}
    put_off: dict[str, list[T]] = {}
    for item in items:
        layer = layer_of[name(item)]
        to = put_off if last(item) and layer not in order else gathered
        to.setdefault(layer, []).append(item)
    return [(name, members) for name, members in (*gathered.items(), *put_off.items()) if members]
