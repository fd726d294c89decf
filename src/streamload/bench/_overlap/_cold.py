"""First tokens of a model that is not there yet, over prompts from transfer-bound to compute-bound.

Part of `bench._overlap`; needs torch. In each round and for each prompt the link is measured, then a resident pass and
a streamed one follow each other, and once the usual way: what slows the machine meets all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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

    from ..._models import Subject
    from ._place import Files, Place

__all__ = ["ColdCourse", "run_cold", "same_bits"]

_PART_PASSES, _SHORT_SECONDS = 3, 0.5  # a pass that takes longer is run once by part
_USUAL_ROUNDS = 1  # it is there for comparison, and takes the longest


@dataclass(frozen=True, slots=True)
class ColdCourse:
    """Hold what first tokens are measured on.

    Attributes:
        subject: What is loaded and computes.
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

    subject: Subject
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
    course: ColdCourse, tokens: Sequence[int], repeat: int, progress: Callable[[], object] = lambda: None
) -> list[ColdCase]:
    """Measure every prompt `repeat` times, and once more by layer.

    Raises:
        BenchError: An output differed, or a load left something behind.
    """
    tallies: list[_Tally] = []
    for count in tokens:
        subject = replace(course.subject, tokens=count)
        tallies.append(_Tally(subject, resident_pass(subject, course.place, course.resident).output))
    for number in range(repeat):
        turn = number % len(tallies)
        for tally in [*tallies[turn:], *tallies[:turn]]:
            _run_once(course, tally)
            progress()
    cases = []
    for tally in tallies:
        cases.append(_by_layer(course, tally))
        progress()
    return cases


def _run_once(course: ColdCourse, tally: _Tally) -> None:
    subject, place = tally.subject, course.place

    def resident() -> float:
        found = resident_pass(subject, place, course.resident)
        _check(found.output, tally.expected, (), "the resident pass")
        return found.seconds

    def streamed(*, wait_first: bool) -> float:
        place.settle(subject.nbytes)
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
    storage = course.files.storage_rate()
    if len(tally.streamed) % 2:  # whoever comes first takes turns
        tally.streamed.append(streamed(wait_first=False))
        tally.compute.append(resident())
    else:
        tally.compute.append(resident())
        tally.streamed.append(streamed(wait_first=False))
    if len(tally.usual) < _USUAL_ROUNDS:
        tally.usual.append(streamed(wait_first=True))


def _by_layer(course: ColdCourse, tally: _Tally) -> ColdCase:
    subject, place = tally.subject, course.place
    count = _PART_PASSES if median(tally.compute) < _SHORT_SECONDS else 1
    passes = [resident_pass(subject, place, course.resident, by_part=True) for _ in range(count)]
    parts = scaled([found.part_seconds for found in passes], median(tally.compute))
    place.settle(subject.nbytes)
    streamed, _ = streamed_pass(subject, place, by_part=True)
    for output, left in ((streamed.output, streamed.residue), *((found.output, ()) for found in passes)):
        _check(output, tally.expected, left, "the pass by part")
    predicted = first_token_seconds(
        parts,
        groups_of_parts(course.files, subject, streamed.trace),
        reads_in_trace(streamed.trace),
        make_pipeline(tally.link, tally.storage, tally.load),
    )
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
        layer_compute_seconds=course.files.by_layer(parts),
        layer_streamed_seconds=course.files.by_layer(streamed.part_seconds),
        predicted_seconds=predicted,
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
