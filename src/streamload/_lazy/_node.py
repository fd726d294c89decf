"""What was done to tensors of a checkpoint, as a graph: nodes of the file, and steps that make others.

Part of `_lazy`. A node never changes: what it stands for can be computed at any time and as often as needed, whatever
was done to lazy tensors since. Nodes know what they were made of, not who was made of them, so a graph is gone with
the last lazy tensor over it. Read next: `_tensor`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch

from .._sources import FileSource
from ..torch._dtypes import torch_dtype, torch_shape
from ..torch._host import HostTensors
from ..torch._layout import Part
from ..torch._memory import reinterpret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch._ops import OpOverload

    from .._checkpoint import Checkpoint
    from .._format import TensorInfo
    from ..torch._deferred import DeferredFill

T = TypeVar("T")


_KEEP = frozenset(
    [
        torch.ops.aten.detach.default,
        torch.ops.aten.alias.default,
        torch.ops.aten.clone.default,
        torch.ops.aten._to_copy.default,
        torch.ops.aten.lift_fresh.default,
    ]
)
"""Operations whose result has the elements of their argument, each in its place, if it has its dtype."""


class LazySource:
    """Reads tensors of one checkpoint for those who need values early. Thread-safe; maps no file and holds none open.

    Args:
        checkpoint: Open.
        into: Who copies parts of tensors into memory that is there; None: they are read whole first.

    Attributes:
        into: As given.
        bytes_read: Of tensors that were needed; nothing, if all goes well.
        names_read: Their names, in the order in which they were needed.
    """

    def __init__(self, checkpoint: Checkpoint, into: DeferredFill | None = None) -> None:
        self._shards = checkpoint.shards
        self.into = into
        self._lock = threading.Lock()  # guards what is counted
        self.bytes_read = 0
        self.names_read: list[str] = []

    def read(self, info: TensorInfo) -> torch.Tensor:
        """Return a tensor on the CPU, in memory of its own.

        Raises:
            ShortReadError, SourceError: Its file cannot be read.
            ChangedError: The file is no longer the one whose header was read.
            StreamClosedError: The checkpoint was closed.
        """
        source = self._shards[info.shard].source
        buffer = HostTensors(self._shards).read(info, [(0, info.nbytes)], info.nbytes)
        if isinstance(source, FileSource):
            source.check_unchanged()
        with self._lock:
            self.bytes_read += info.nbytes
            self.names_read.append(info.name)
        return reinterpret(buffer, torch_dtype(info), torch_shape(info))

    def copy_into(self, node: Node, tensor: torch.Tensor) -> bool:
        """Copy a node into an ordinary tensor, reading what it is of the file and no more.

        Returns:
            False where the node has to be computed first. Nothing that was put off goes to the tensor's memory then.

        Raises:
            RuntimeError: The shapes do not fit.
            SourceError, DeviceError, StreamClosedError: As `DeferredFill.put`.
        """
        if self.into is None:
            return False
        found = _of_file(node)
        if found is not None and found.info is not None:
            form = found.form if found.form.shape == tensor.shape else found.form.expand(tensor.shape)
            size = form.element_size()
            stride = tuple([step * size for step in form.stride()])
            part = Part(int(form.storage_offset()) * size, tuple(form.shape), stride, size)
            if form.numel() == found.form.numel() and self.into.put(found.info, part, form.dtype, tensor):
                return True
        self.into.settle_for([tensor])
        return False


@dataclass(frozen=True, slots=True)
class Step:
    """One operation that was written down.

    Attributes:
        func: The operation, an aten overload.
        args: Its arguments, nodes among them.
        kwargs: The same, by name.
        result: Which of its results a node is; None where it has one.
    """

    func: OpOverload[..., object]
    args: tuple[object, ...]
    kwargs: dict[str, object]
    result: int | None


class Node:
    """One tensor that can be computed: of the file, or made by a step. Never changes.

    Attributes:
        form: The same on the meta device. For a view of a tensor in the file its strides and offset say which part.
        device: Where it is to be.
        source: Who reads.
        info: The tensor in the file that this is a view of, or None.
        step: How it is made; None for a tensor of the file.
        base: What it is a view of, or None.
    """

    __slots__ = ("__weakref__", "_asked", "_kept", "_lock", "base", "device", "form", "info", "source", "step")

    def __init__(
        self,
        form: torch.Tensor,
        device: torch.device,
        source: LazySource,
        *,
        info: TensorInfo | None = None,
        step: Step | None = None,
        base: Node | None = None,
    ) -> None:
        self.form, self.device, self.source = form, device, source
        self.info, self.step, self.base = info, step, base
        self._asked = 0
        self._kept: torch.Tensor | None = None
        self._lock = threading.Lock()  # guards _kept, so that it is computed once; those of other nodes are not taken

    def made_of(self) -> list[Node]:
        """Return the nodes that the step takes."""
        if self.step is None:
            return []
        return [each for each in flat((*self.step.args, *self.step.kwargs.values())) if isinstance(each, Node)]

    def value(self) -> torch.Tensor:
        """Return the tensor, read and computed if it is not yet; the same one each time, not to be written to.

        Raises:
            ShortReadError, SourceError, ChangedError, StreamClosedError: As `LazySource.read`.
        """
        with self._lock:
            if self._kept is None:
                self._kept = _compute(self)
            return self._kept

    def own_value(self) -> torch.Tensor:
        """Return the tensor in memory that nothing else looks at.

        Raises:
            As `value`.
        """
        made = _compute(self)
        return made.clone() if made is self._kept else made

    def files(self) -> list[TensorInfo]:
        """Return the tensors in the file that it is computed from, each once."""
        found = [node.info for node in _in_order(self, all_of_it=True) if node.step is None and node.info is not None]
        return list({info.name: info for info in found}.values())

    def replay(self, values: dict[Node, torch.Tensor]) -> torch.Tensor:
        """Make the tensor of those that its step takes; or read it."""
        if self.step is None:
            return self.source.read(cast("TensorInfo", self.info))

        def valued(each: object) -> object:
            return values[each] if isinstance(each, Node) else each

        found = self.step.func(*change(valued, self.step.args), **change(valued, self.step.kwargs))
        made = found if self.step.result is None else cast("Sequence[object]", found)[self.step.result]
        return cast("torch.Tensor", made)


def flat(values: Iterable[object]) -> Iterator[object]:
    """Yield an operation's arguments, those in lists too."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


def change(work: Callable[[object], object], values: T) -> T:
    """Return arguments or results, each changed; a tenth of what torch's own `tree_map` takes."""
    made: object
    if isinstance(values, (list, tuple)):
        made = type(values)([change(work, value) for value in values])
    elif isinstance(values, dict):
        made = {name: change(work, value) for name, value in values.items()}
    else:
        made = work(values)
    return cast("T", made)


def _of_file(node: Node) -> Node | None:
    """Return the view of a tensor in the file that has a node's elements in their places, if there is one."""
    while node.info is None:
        if node.step is None or node.step.func not in _KEEP:
            return None
        above = cast("Node", node.step.args[0])
        if above.form.dtype != node.form.dtype:
            return None
        node = above
    return None if _shares(node.form) else node


def _shares(form: torch.Tensor) -> bool:
    """Whether elements may be the same bytes, as those of an expanded tensor are."""
    return any(not step and extent > 1 for step, extent in zip(form.stride(), form.shape, strict=True))


def _compute(wanted: Node) -> torch.Tensor:
    """Compute a node, and let go of each tensor on the way once all that is made of it is.

    What is computed a second time is kept, so that no number of small requests reads a large tensor over and over.
    """
    order = list(_in_order(wanted))
    uses = {node: 0 for node in order}
    for node in order:
        for above in node.made_of() if node._kept is None else ():
            uses[above] += 1
    values: dict[Node, torch.Tensor] = {}
    with torch.inference_mode(mode=False), torch.no_grad():
        for node in order:
            kept = node._kept
            values[node] = _settle(node, node.replay(values), values) if kept is None else kept
            if kept is not None or node is wanted:
                continue
            node._asked += 1
            if node._asked > 1:
                node._kept = values[node]
            for above in node.made_of():
                uses[above] -= 1
                if not uses[above]:
                    del values[above]
    return values[wanted]


def _in_order(wanted: Node, *, all_of_it: bool = False) -> Iterator[Node]:
    """Yield what a node is made of, each before what is made of it, and the node; without recursion.

    Args:
        wanted: The node.
        all_of_it: Also what is above tensors that were kept.
    """
    seen: set[Node] = set()
    ahead = [(wanted, False)]
    while ahead:
        node, ready = ahead.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            ahead.append((node, True))
            if all_of_it or node._kept is None:
                ahead += [(above, False) for above in node.made_of()]


def _settle(node: Node, made: torch.Tensor, values: dict[Node, torch.Tensor]) -> torch.Tensor:
    """Hold a result to what was foretold: its strides, and memory of its own if it is no view.

    Kernels for the meta device now and then differ from the real ones in both, and later steps rely on them.
    """
    if node.base is None and node.step is not None:
        if any(made.untyped_storage()._cdata == values[above].untyped_storage()._cdata for above in node.made_of()):
            made = made.clone()
        if made.stride() != node.form.stride() and made.numel() > 1:
            made = torch.empty_strided(node.form.shape, node.form.stride(), dtype=made.dtype, device=made.device).copy_(
                made
            )
    return made
