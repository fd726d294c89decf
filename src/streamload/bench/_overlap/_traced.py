"""Timelines of one prompt's first token: every weight first, and streamed.

Part of `bench._overlap`; needs torch. Marks on the parts of the module say what was computed when; they cost time, and
give no figure.
"""

from __future__ import annotations

import gc
import math
import time
from typing import TYPE_CHECKING

from ..._checkpoint import open as open_checkpoint
from ..._engine import CopyEngine
from ..._models import Marks
from ..._trace import Trace
from ...torch import stream_module
from .._result import BenchError
from ._cold import same_bits
from ._passes import first_token, resident_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from ._cold import ColdCourse
    from ._result import ColdCase

__all__ = ["middle_course", "traced_passes"]


def middle_course(courses: Sequence[ColdCourse], cases: Sequence[ColdCase]) -> ColdCourse:
    """Return the prompt that computes about as long as its weights travel: there most can be hidden."""

    def away(case: ColdCase) -> float:
        return abs(math.log(case.figures()["compute_to_move"] or math.inf))

    return min(zip(courses, cases, strict=True), key=lambda pair: away(pair[1]))[0]


def traced_passes(course: ColdCourse, progress: Callable[[], object] = lambda: None) -> tuple[Trace, ...]:
    """Load and compute the first token both ways, with marks; each begins when the checkpoint is opened.

    Args:
        course: The prompt.
        progress: Called after each way.

    Raises:
        BenchError: An output differed from that of the model loaded plainly.
    """
    expected = resident_pass(course.subject, course.place, course.resident).output
    length = f"{course.subject.tokens} tokens"
    found = []
    for title, wait_first in (("every weight first", True), ("streamed", False)):
        found.append(_traced(course, expected, f"{title}, {length}", wait_first=wait_first))
        progress()
    return tuple(found)


def _traced(course: ColdCourse, expected: torch.Tensor, title: str, *, wait_first: bool) -> Trace:
    subject, place = course.subject, course.place
    place.settle(subject.nbytes)
    module, ids = subject.build(), subject.prompt(place.torch_device)
    gc.collect()
    place.synchronize()
    marks = Marks(module, place.torch_device)
    began, monotonic = time.perf_counter(), time.monotonic()
    with open_checkpoint(subject.path) as checkpoint, CopyEngine(place.device) as engine:
        loading = stream_module(module, checkpoint, place.torch_device, strict=False, engine=engine)
        submitted = loading.ticket.submitted - monotonic
        if wait_first:
            loading.wait()
        returned = time.perf_counter() - began
        output = first_token(subject, module, ids)
        ended = time.perf_counter() - began
        loading.wait()
        spans = marks.spans(began, checkpoint, loading.ticket.trace(), submitted)
        layers = tuple(layer.name for layer in checkpoint.layers)
    if not same_bits(output.cpu(), expected):
        raise BenchError(f"the pass with marks ({title}) gave another output than the model loaded plainly")
    return Trace(title, spans, (("load call returned", returned), ("first token", ended)), layers)
