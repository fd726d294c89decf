"""First tokens of a model that is not there yet, over prompts from transfer-bound to compute-bound.

Part of `bench._overlap`; needs torch. In each round and for each prompt the link is measured, then a resident pass and
a streamed one follow each other, and once the usual way: what slows the machine meets all of them. Each such pair is
held against a prediction of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import torch

from .._result import BenchError
from ._passes import resident_pass, streamed_pass
from ._predict import first_token_seconds, groups_of_parts, make_pipeline, reads_in_trace, scaled
from ._result import ColdCase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from ..._engine import ChunkTrace
    from ..._models import Subject
    from ._passes import Pass
    from ._place import Files, Place
    from ._predict import PartSeconds

__all__ = ["ColdCourse", "run_cold", "same_bits"]

_PART_PASSES, _SHORT_SECONDS = 3, 0.5  # a pass that takes longer is run once by part, where no kernel is loaded first
_USUAL_ROUNDS = 1  # it is there for comparison, and takes the longest


@dataclass(frozen=True, slots=True)
class ColdCourse:
    """Hold what first tokens are measured on.

    Attributes:
        subject: What is loaded and computes, and how long its prompt is.
        place: Where to.
        files: Where from.
        resident: The same module, loaded plainly.
    """

    subject: Subject
    place: Place
    files: Files
    resident: nn.Module


@dataclass(slots=True)
class _Tally:
    """Gather the rounds of one prompt."""

    course: ColdCourse
    repeat: int
    parts: list[PartSeconds]  # of resident passes with marks
    expected: torch.Tensor
    link: list[float] = field(default_factory=list)
    storage: list[float] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    since_call: list[float] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)


def run_cold(
    courses: Sequence[ColdCourse], repeats: Sequence[int], progress: Callable[[], object] = lambda: None
) -> list[ColdCase]:
    """Measure every prompt by pairs of passes, and once more by layer.

    Args:
        courses: One for each prompt.
        repeats: How many pairs of each.
        progress: Called after each of them.

    Raises:
        BenchError: An output differed, or a load left something behind.
    """
    tallies = [_open(course, repeat) for course, repeat in zip(courses, repeats, strict=True)]
    for number in range(max(repeats)):
        turn = number % len(tallies)
        for tally in [*tallies[turn:], *tallies[:turn]]:
            if number < tally.repeat:
                _run_once(tally)
                progress()
    cases = []
    for tally in tallies:
        cases.append(_close(tally))
        progress()
    return cases


def _open(course: ColdCourse, repeat: int) -> _Tally:
    """Run the resident pass by part, which warms up too."""

    def by_part() -> Pass:
        return resident_pass(course.subject, course.place, course.resident, by_part=True)

    passes = [by_part()]
    if passes[0].seconds < _SHORT_SECONDS or not course.place.on_host:
        passes += [by_part() for _ in range(_PART_PASSES - 1)]
    tally = _Tally(course, repeat, [found.part_seconds for found in passes], passes[0].output)
    for found in passes:
        _check(found.output, tally.expected, (), "a resident pass by part")
    return tally


def _run_once(tally: _Tally) -> None:
    subject, place = tally.course.subject, tally.course.place

    def resident() -> float:
        found = resident_pass(subject, place, tally.course.resident)
        _check(found.output, tally.expected, (), "the resident pass")
        return found.seconds

    def streamed(*, wait_first: bool) -> float:
        found, _ = streamed_pass(subject, place, wait_first=wait_first)
        _check(found.output, tally.expected, found.residue, "the streamed pass")
        if not wait_first:
            tally.since_call.append(found.since_call_seconds)
            tally.waited.append(found.stats.stall_seconds)
            tally.load.append(found.load_seconds)
            # What was reached is no more than what can be reached, however plain reads did.
            tally.storage.append(max(storage, found.stats.bytes_total / found.stats.seconds))
        return found.seconds

    tally.link.append(place.link_rate())
    storage = tally.course.files.storage_rate()
    place.settle(subject.nbytes)
    if len(tally.streamed) % 2:  # whoever comes first takes turns
        tally.streamed.append(streamed(wait_first=False))
        tally.compute.append(resident())
    else:
        tally.compute.append(resident())
        tally.streamed.append(streamed(wait_first=False))
    if len(tally.usual) < _USUAL_ROUNDS:
        place.settle(subject.nbytes)
        tally.usual.append(streamed(wait_first=True))


def _close(tally: _Tally) -> ColdCase:
    course, subject = tally.course, tally.course.subject
    course.place.settle(subject.nbytes)
    streamed, _ = streamed_pass(subject, course.place, by_part=True)
    _check(streamed.output, tally.expected, streamed.residue, "the streamed pass by part")
    return ColdCase(
        tokens=subject.tokens,
        nbytes=subject.nbytes,
        link_bytes_per_second=tuple(tally.link),
        storage_bytes_per_second=tuple(tally.storage),
        compute_seconds=tuple(tally.compute),
        streamed_seconds=tuple(tally.streamed),
        since_call_seconds=tuple(tally.since_call),
        load_seconds=tuple(tally.load),
        usual_seconds=tuple(tally.usual),
        waited_seconds=tuple(tally.waited),
        layer_compute_seconds=course.files.by_layer(scaled(tally.parts, median(tally.compute))),
        layer_streamed_seconds=course.files.by_layer(streamed.part_seconds),
        predicted_seconds=_predicted(tally, streamed.trace),
    )


def _predicted(tally: _Tally, trace: Sequence[ChunkTrace]) -> tuple[float, ...]:
    """Predict each streamed pass from what was measured beside it."""
    course = tally.course
    group_of, reads = groups_of_parts(course.files, course.subject, trace), reads_in_trace(trace)
    rounds = zip(tally.compute, tally.link, tally.storage, tally.load, strict=True)
    return tuple(
        first_token_seconds(scaled(tally.parts, compute), group_of, reads, make_pipeline([link], [storage], [load]))
        for compute, link, storage, load in rounds
    )


def _check(output: torch.Tensor, expected: torch.Tensor, left: Sequence[str], what: str) -> None:
    if not same_bits(output, expected):
        raise BenchError(f"{what} gave another output than the model loaded plainly; no figure is worth that")
    if left:
        raise BenchError(f"{what} left something behind: {left[0]} ({len(left)} such)")


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Say whether two tensors hold the same bytes."""
    as_bytes = [tensor.contiguous().view(torch.uint8) for tensor in (left, right)]
    return left.dtype == right.dtype and torch.equal(as_bytes[0], as_bytes[1])
