"""Hand a checkpoint's tensors over in layer order while later ones are still arriving.

Floor 4, part of `torch`. Memory is the consumer's from the moment it is yielded. At most two windows are in flight,
so that a checkpoint larger than the device passes through if its consumer lets go of what it has taken. Read next:
`_submit`.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from .._closing import Closing
from .._collector import collector_paused
from .._plan import make_copy
from ..errors import StreamClosedError
from ._failure import raise_again, without_traceback
from ._groups import GROUP_BYTES, cut
from ._memory import current_stream, place, poison, resolve_device
from ._stats import add_up
from ._submit import check_checkpoint, choose_engine, enter_checkpoint, known_sums, submit

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from .._checkpoint import Checkpoint
    from .._engine import CopyEngine, LoadStats, Ticket
    from .._format import TensorInfo
    from ..options import StreamOptions

Item = TypeVar("Item")

WINDOW_BYTES = 512 << 20
"""Bytes submitted at once to a GPU: 10 ms of a PCIe 5 link, long against the start of a load (0.1 ms), short against
the memory of any GPU. Two windows are in flight."""

HOST_WINDOW_BYTES = 128 << 20
"""The same for the CPU: 8 ms of its memory's bandwidth. With two in flight, and what the consumer holds, a checkpoint
larger than memory passes through a quarter of a gigabyte."""


@dataclass(frozen=True, slots=True)
class LoadedLayer:
    """Hold the tensors of one layer, arrived.

    Attributes:
        name: What the names of its tensors have in common, as in `Layer`.
        tensors: Tensor by full name. They own their memory, and the stream that was current when the layer was
            yielded sees their bytes.
    """

    name: str
    tensors: dict[str, torch.Tensor]


Arrived = tuple[str, "torch.Tensor"]  # a tensor by its name in the checkpoint


@dataclass(frozen=True, slots=True)
class _Group:
    layer: str
    infos: list[TensorInfo]
    last: bool  # of its layer


@dataclass(frozen=True, slots=True)
class _Window:
    ticket: Ticket
    groups: list[tuple[_Group, list[Arrived]]]


class Feed:
    """Submit groups window by window and wait for them in order.

    Args:
        checkpoint: Where the bytes are; must stay open until the last window is submitted.
        layers: Name and tensors of each layer, in order.
        device: Where the tensors go.
        engine: Who copies.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        layers: Iterable[tuple[str, Sequence[TensorInfo]]],
        device: torch.device,
        engine: CopyEngine,
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._engine = engine
        self._known = known_sums(checkpoint, engine)
        self._waiting = _windows(layers, HOST_WINDOW_BYTES if device.type == "cpu" else WINDOW_BYTES)
        self._tickets: list[Ticket] = []  # in flight
        self._finished: list[LoadStats] = []
        self._closed = False

    def groups(self) -> Iterator[tuple[str, list[Arrived], bool]]:
        """Yield each group once the current stream may use it: its layer's name, its tensors, whether it is the last.

        The list of tensors is the consumer's: what it takes out of it and drops is free.

        Raises:
            SourceError: Reading failed.
            DeviceError: The device failed.
            StreamClosedError: The feed or the checkpoint was closed.
        """
        following = self._start_next()
        while following is not None:
            window, following = following, None
            for index in range(len(window.groups)):
                if index == len(window.groups) // 2:  # not at once: its reads would slow down those awaited now
                    following = self._start_next()
                window.ticket.wait_group(index, stream=current_stream(self._device))
                group, tensors = window.groups[index]
                window.groups[index] = (group, [])
                yield group.layer, tensors, group.last
                del tensors
            self._retire(wait=False)
        self._retire(wait=True)

    def close(self) -> None:
        """Cancel what is in flight and wait for its copies to drain. Harmless when repeated."""
        self._closed = True
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            ticket.cancel()
        for ticket in tickets:
            ticket.close()
            with suppress(StreamClosedError):  # in a forked child the load and its numbers are the parent's
                self._finished.append(ticket.stats())

    def stats(self) -> LoadStats:
        """Return what was done so far, over all windows submitted."""
        return add_up([*self._finished, *(ticket.stats() for ticket in self._tickets)])

    @collector_paused()
    def _start_next(self) -> _Window | None:
        groups = next(self._waiting, None)
        if groups is None:
            return None
        # Small groups share a block, so that none costs a huge page or more of its own.
        infos = [info for group in groups for info in group.infos]
        placement = place(infos, self._device, block_bytes=GROUP_BYTES, as_in_file=True)
        if self._engine.options.debug:
            poison(placement.blocks)
        copies = iter(
            [
                make_copy((info.shard, info.start, info.end, address, 1, 0, 0))
                for info, address in zip(infos, placement.addresses, strict=True)
            ]
        )
        by_group = [list(islice(copies, len(group.infos))) for group in groups]
        ticket = submit(self._engine, self._checkpoint, by_group, self._device, placement.blocks, self._known)
        named = zip([info.name for info in infos], placement.tensors, strict=True)
        filled = [(group, list(islice(named, len(group.infos)))) for group in groups]
        del placement, named  # what the consumer drops is free
        self._tickets.append(ticket)
        if self._closed:  # by another thread, which may have missed this ticket
            ticket.close()
            raise StreamClosedError("the stream of tensors was closed")
        return _Window(ticket, filled)

    def _retire(self, *, wait: bool) -> None:
        """Let go of the tickets whose bytes have all landed; `wait` for all of them."""
        kept = []
        for ticket in self._tickets:
            if wait or ticket.done:
                ticket.wait()  # raises if it failed
                ticket.close()
                self._finished.append(ticket.stats())
            else:
                kept.append(ticket)
        self._tickets = kept


class _Arrivals(Closing, Generic[Item]):
    """Iterate over what a feed brings, and never end or go on without an error once an item was lost.

    Args:
        feed: Closed with this.
        items: A generator over the feed, which ends for good at the first exception that leaves it.
        opened: What else to close.
    """

    def __init__(self, feed: Feed, items: Iterator[Item], opened: ExitStack) -> None:
        self._feed = feed
        self._items = items
        self._opened = opened
        self._whole = True  # every step so far has handed its item over, or is the one that ends it all
        self._failure: BaseException | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next item, blocking until the current stream may use it.

        Raises:
            StopIteration: That was the last one.
            SourceError: Reading failed. What has failed once raises the same at every call.
            DeviceError: The device failed.
            StreamClosedError: The stream or its checkpoint was closed, or an interrupt has cut off an earlier call.
        """
        if self._closed:
            raise StreamClosedError("the stream of tensors is closed")
        if self._failure is not None:
            raise_again(self._failure)
        if not self._whole:
            raise StreamClosedError("the stream of tensors was cut off by an interrupt; start it again")
        self._whole = False  # before anything else: an interrupt may strike at any line from here on
        try:
            item = next(self._items, None)
        except Exception as error:
            self._failure = without_traceback(error)
            raise
        self._whole = True
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """Cancel what has not arrived. What was taken stays valid. Harmless when repeated."""
        self._closed = True
        self._feed.close()
        self._opened.close()


class LayerStream(_Arrivals[LoadedLayer]):
    """Iterate over a checkpoint's layers as they arrive; a context manager.

    Made by `stream`. Not safe to iterate from several threads. Once a load has failed, every further step raises the
    same error; after an interrupt (Ctrl-C), `StreamClosedError`.

    Example:
        >>> with stream(checkpoint, "cuda") as layers:
        ...     for layer in layers:
        ...         run(layer.name, layer.tensors)
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__(feed, _gather(feed), ExitStack())

    def stats(self) -> LoadStats:
        """Return what was loaded so far. Totals cover the windows submitted, `seconds` adds up over them."""
        return self._feed.stats()


def stream(
    checkpoint: Checkpoint,
    device: str | int | torch.device = "cuda",
    *,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> LayerStream:
    """Stream a checkpoint's layers, in the order a model runs them, into new memory.

    Args:
        checkpoint: Open; must stay open while the stream is iterated.
        device: "cuda", "cuda:<n>", a number of a CUDA device, a `torch.device`, or "cpu".
        options: How to read and stage; not together with `engine`.
        engine: A copy engine of one's own. None: the one that loads to this device share.

    Raises:
        ValueError: The device is none of those, or does not fit the engine.
        DeviceError: There is no such device.
    """
    check_checkpoint(checkpoint)
    where = resolve_device(device)
    layers = [(layer.name, layer.tensors) for layer in checkpoint.layers]
    return LayerStream(Feed(checkpoint, layers, where, choose_engine(where, options, engine)))


def iter_tensors(
    source: str | os.PathLike[str] | Checkpoint,
    device: str | int | torch.device = "cpu",
    *,
    names: Iterable[str] | None = None,
    storage_options: Mapping[str, object] | None = None,
    options: StreamOptions | None = None,
    engine: CopyEngine | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Iterate over a checkpoint's tensors in layer order while later ones are still arriving.

    Each tensor owns its memory (together with its neighbours in the order of the iterator, 16 MiB or one tensor) and
    may be kept. The stream
    that is current when a tensor is yielded sees its bytes. Closing the iterator early cancels the rest. Once a load
    has failed, every further step raises the same error; after an interrupt (Ctrl-C), `StreamClosedError`.

    Args:
        source: Path or URL of a file or directory, or an open checkpoint, which stays open.
        device: "cpu", "cuda", "cuda:<n>", a number of a CUDA device, or a `torch.device`.
        names: Only these tensors. None: all.
        storage_options: Credentials and endpoints of a store, as `streamload.open` takes them.
        options: How to read and stage; not together with `engine`.
        engine: A copy engine of one's own. None: the one that loads to this device share.

    Raises:
        KeyError: One of `names` is not in the checkpoint.
        FileNotFoundError, FormatError, DeviceError, ValueError: At the call.
        SourceError, DeviceError, TypeError: While iterating.
    """
    where = resolve_device(device)
    chosen_engine = choose_engine(where, options, engine)
    with ExitStack() as opened:
        checkpoint = enter_checkpoint(opened, source, storage_options, options)
        wanted = None if names is None else {checkpoint[name].name for name in names}
        layers = [
            (layer.name, layer.tensors if wanted is None else [info for info in layer.tensors if info.name in wanted])
            for layer in checkpoint.layers
        ]
        feed = Feed(checkpoint, layers, where, chosen_engine)
        opened.callback(feed.close)
        kept = opened.pop_all()
        tensors = _yield_tensors(feed, kept)
        next(tensors)
        return _Arrivals(feed, cast("Iterator[tuple[str, torch.Tensor]]", tensors), kept)


def _yield_tensors(feed: Feed, opened: ExitStack) -> Iterator[tuple[str, torch.Tensor] | None]:
    with opened:  # here, so that dropping the iterator closes it too
        yield None  # taken at once: a generator that never ran would close nothing
        for _, arrived, _ in feed.groups():
            arrived.reverse()
            while arrived:
                yield arrived.pop()


def _gather(feed: Feed) -> Iterator[LoadedLayer]:
    tensors: dict[str, torch.Tensor] = {}
    for name, together, last in feed.groups():
        tensors.update(together)
        together.clear()
        if last:
            arrived, tensors = LoadedLayer(name, tensors), {}
            yield arrived
            del arrived


def _windows(layers: Iterable[tuple[str, Sequence[TensorInfo]]], nbytes: int) -> Iterator[list[_Group]]:
    """Yield groups in order, as many at a time as a window holds."""
    window: list[_Group] = []
    size = 0
    for name, infos in layers:
        groups = list(cut(infos, lambda info: info.end - info.start))
        for number, group in enumerate(groups, 1):
            window.append(_Group(name, group, last=number == len(groups)))
            size += sum([info.end - info.start for info in group])
            if size >= nbytes:
                yield window
                window, size = [], 0
    if window:
        yield window
