"""Say when a module's load did what: moments, and the spans of a trace.

Floor 4, part of `torch`; pure.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from .._engine import LoadMoments
from .._trace import Lane, Span, Trace, in_link_order, in_tracks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .._checkpoint import Checkpoint
    from .._engine import ChunkTrace, Ticket


def load_moments(
    checkpoint: Checkpoint, ticket: Ticket, layer_of: Sequence[str], used: Mapping[int, float]
) -> LoadMoments:
    """Return a load's moments.

    Args:
        checkpoint: What is loaded.
        ticket: The load; it may be closed.
        layer_of: By group of the ticket, the layer that it belongs to; empty where nobody knows.
        used: When a group was first used.
    """
    landed: dict[int, float] = {}
    for chunk in ticket.trace():
        landed[chunk.group] = max(landed.get(chunk.group, 0.0), chunk.copy_done)
    layers: dict[str, float] = {}
    arriving: set[str] = set()
    for group, layer in enumerate(layer_of):
        if ticket.resident(group):
            layers[layer] = max(layers.get(layer, 0.0), ticket.submitted + landed.get(group, 0.0))
        else:
            arriving.add(layer)
    first: dict[str, float] = {}
    for group, at in used.items():
        if group < len(layer_of):
            first.setdefault(layer_of[group], at)
    return LoadMoments(
        headers=checkpoint.headers_read,
        submitted=ticket.submitted,
        layers={layer: at for layer, at in layers.items() if layer not in arriving},
        used=first,
    )


def load_trace(title: str, ticket: Ticket, layer_of: Sequence[str], moments: LoadMoments, *, computes: bool) -> Trace:
    """Return a load's reads and copies by layer, from its first header on, and what is known of computing.

    Args:
        title: Of the trace.
        ticket: The load; it may be closed.
        layer_of: By group of the ticket, the layer that it belongs to.
        moments: Of the load.
        computes: Whether a layer is computed by the thread that uses it, as on the CPU: from its first use, or its
            last byte, to the first use of the next one. When the last layer's computing ended nobody knows.
    """
    zero = moments.submitted if moments.headers is None else moments.headers[0]
    submitted = moments.submitted - zero
    transfers = transfer_spans(ticket.trace(), lambda chunk: layer_of[chunk.group], submitted)
    instants = [("submitted", submitted)]
    if moments.headers is not None:
        instants.append(("headers read", moments.headers[1] - zero))
    instants += [(f"{layer} resident", at - zero) for layer, at in moments.layers.items()]
    instants += [(f"{layer} first used", at - zero) for layer, at in moments.used.items()]
    computing = _computing(moments, zero) if computes else []
    return Trace(title, (*transfers, *computing), tuple(instants), tuple(dict.fromkeys(layer_of)), zero)


def transfer_spans(
    chunks: Iterable[ChunkTrace], layer_of: Callable[[ChunkTrace], str], submitted: float = 0.0
) -> list[Span]:
    """Return a load's reads and copies as spans.

    Args:
        chunks: From `Ticket.trace`.
        layer_of: Tells which layer a read is for.
        submitted: When the load was submitted, in seconds since the trace began.
    """
    reads: list[Span] = []
    copies: list[Span] = []
    for chunk in chunks:
        layer = layer_of(chunk)
        begin, end = submitted + chunk.read_start, submitted + chunk.read_end
        reads.append(Span(Lane.READ, layer, begin, end, chunk.nbytes, chunk.thread))
        begin, end = submitted + chunk.copy_issued, submitted + chunk.copy_done
        copies.append(Span(Lane.COPY, layer, begin, end, chunk.nbytes))
    return in_tracks(reads) + in_link_order(copies)


def _computing(moments: LoadMoments, zero: float) -> list[Span]:
    used = sorted(moments.used.items(), key=lambda item: item[1])
    found = []
    for (layer, at), (_, following) in pairwise(used):
        start = max(at, moments.layers.get(layer, following))
        if start < following:
            found.append(Span(Lane.COMPUTE, layer, start - zero, following - zero))
    return found
