"""Load once more, and say what was read and copied when: for timelines, outside of all figures.

Floor 6; needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .. import _native
from .._checkpoint import open as open_checkpoint
from .._engine import CopyEngine, open_device
from .._trace import Trace
from ..torch._dtypes import torch_dtype, torch_shape
from ..torch._history import transfer_spans
from ..torch._submit import Target, submit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._checkpoint import Checkpoint
    from .._engine import Ticket
    from ._course import Course

__all__ = ["start_load", "ticket_trace", "traced_loads"]


def start_load(
    checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], device: torch.device, engine: CopyEngine
) -> Ticket:
    """Submit a load of every tensor into memory that is there, in the order of the layers; one group each.

    Args:
        checkpoint: Open.
        tensors: By name, all of them.
        device: That they are on.
        engine: Who copies.
    """
    layers = [[Target(info, tensors[info.name]).copy() for info in layer.tensors] for layer in checkpoint.layers]
    memory = [tensor.untyped_storage() for tensor in tensors.values()]
    return submit(engine, checkpoint, layers, device, memory, None)


def ticket_trace(title: str, checkpoint: Checkpoint, ticket: Ticket) -> Trace:
    """Return what a load of `start_load` that is done read and copied, in seconds since it was submitted."""
    layers = tuple(layer.name for layer in checkpoint.layers)
    spans = transfer_spans(ticket.trace(), lambda chunk: layers[chunk.group])
    instants = (("all resident", max([0.0, *(span.end for span in spans)])),)
    return Trace(title, tuple(spans), instants, layers)


def traced_loads(course: Course, *, cold: bool, new_memory: bool) -> tuple[Trace, ...]:
    """Load a course's checkpoint once more for each way that bytes go on its device.

    Args:
        course: What is loaded.
        cold: Drop the files from the page cache before.
        new_memory: Take memory first, rather than fill what is there; on the host then only straight into its place.
    """
    device = torch.device(course.torch_device)
    ways = {"streamload, into place" if course.on_host else "streamload, through the ring": open_device(str(device))}
    if course.on_host and not new_memory:
        ways["streamload, through the ring"] = _native.HostDevice(staged=True)
    found = []
    for title, native in ways.items():
        if cold:
            course.drop_from_cache()
        with open_checkpoint(course.path) as checkpoint, CopyEngine(native) as engine:
            existing = _empty(checkpoint, device) if new_memory else course.existing
            with start_load(checkpoint, existing, device, engine) as ticket:
                ticket.wait()
                found.append(ticket_trace(title, checkpoint, ticket))
    return tuple(found)


def _empty(checkpoint: Checkpoint, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(torch_shape(info), dtype=torch_dtype(info), device=device)
        for name, info in checkpoint.items()
    }
