"""Two results of one kind, figure by figure.

Part of `bench._agree`; pure. Whether two figures agree is said by `medians_agree`, as in every table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._result import BenchError
from .._samples import SampledFigure, medians_agree
from ._kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Agreement", "AgreementRow", "agreement_of"]

_MACHINE: Final = ("system", "processor", "cpus", "memory_bytes", "gpu", "gpu_driver", "native_build")


@dataclass(frozen=True, slots=True)
class AgreementRow:
    """Hold one figure of two results.

    Attributes:
        first: Of the first result; without samples where it is not in it, or did not run.
        second: Of the second.
    """

    first: SampledFigure
    second: SampledFigure

    @property
    def verdict(self) -> str:
        """Return "agrees", "DIFFERS", "only in the first", "only in the second" or "one sample": it has no spread."""
        first, second = self.first.samples, self.second.samples
        if not second:
            return "only in the first"
        if not first:
            return "only in the second"
        if len(first) == 1 and len(second) == 1:
            return "one sample"
        return "agrees" if medians_agree(first, second) else "DIFFERS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Hold two results of one kind against each other.

    Attributes:
        kind: What both are, such as "bench link".
        rows: One of each figure that ran in one of them, in the order of the first.
        differences: What was not the same when they were taken: the machine, or what was asked for.
        commits: Of the code that measured, where known.
    """

    kind: str
    rows: tuple[AgreementRow, ...]
    differences: tuple[str, ...]
    commits: tuple[str | None, str | None]

    @property
    def agrees(self) -> bool:
        """Whether every figure is in both and agrees, those of one sample aside."""
        return all(row.verdict in ("agrees", "one sample") for row in self.rows)

    def table(self) -> str:
        """Return it as text."""
        from ._table import agreement_table

        return agreement_table(self)


def agreement_of(
    first: Mapping[str, object], second: Mapping[str, object], *, whatever_differs: bool = False
) -> Agreement:
    """Hold two results, as their JSON has them, against each other.

    Args:
        first: A result of `streamload bench`.
        second: Another of the same kind.
        whatever_differs: Compare them even if they were taken on other machines, or with other settings.

    Raises:
        BenchError: They are of different kinds, or of none whose figures have samples; one is not whole; the machine or
            the settings differ; or no figure has more than one sample.
    """
    kind = _kind_of(first)
    if _kind_of(second) != kind:
        raise BenchError(f"one result is of {kind!r}, the other of {_kind_of(second)!r}: their figures have no pairs")
    differences = tuple(_differences(first, second, KINDS[kind].conditions))
    if differences and not whatever_differs:
        raise BenchError("the results are not of the same thing: " + "; ".join(differences))
    ours, theirs = _sampled(first, kind), _sampled(second, kind)
    rows = tuple(
        AgreementRow(*(found.get(name, SampledFigure(name, (), "")) for found in (ours, theirs)))
        for name in {**ours, **theirs}
    )
    if not any(row.verdict in ("agrees", "DIFFERS") for row in rows):
        raise BenchError("no figure of both has more than one sample; measure with more rounds")
    return Agreement(kind=kind, rows=rows, differences=differences, commits=(_commit(first), _commit(second)))


def _kind_of(result: Mapping[str, object]) -> str:
    kind = result.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BenchError(f"a result of {', '.join(KINDS)} is wanted, got {kind!r}")
    return kind


def _sampled(result: Mapping[str, object], kind: str) -> dict[str, SampledFigure]:
    """Return the figures that ran, by name."""
    try:
        found = {figure.name: figure for figure in KINDS[kind].figures(result) if figure.samples}
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise BenchError(
            f"this is no whole result of {kind!r}: {type(error).__name__} {error}; "
            f"`streamload bench schema {kind.removeprefix('bench ').replace(' ', '-')}` says what it holds"
        ) from error
    return found


def _differences(first: Mapping[str, object], second: Mapping[str, object], conditions: tuple[str, ...]) -> list[str]:
    found = [
        f"{name} is {_said(first.get(name))} and {_said(second.get(name))}"
        for name in conditions
        if first.get(name) != second.get(name)
    ]
    machines = [machine if isinstance(machine := result.get("machine"), dict) else {} for result in (first, second)]
    return found + [
        f"the machine's {name} is {_said(machines[0].get(name))} and {_said(machines[1].get(name))}"
        for name in _MACHINE
        if machines[0].get(name) != machines[1].get(name)
    ]


def _said(value: object) -> str:
    return f"{json.dumps(value):.60}"


def _commit(result: Mapping[str, object]) -> str | None:
    machine = result.get("machine")
    commit = machine.get("commit") if isinstance(machine, dict) else None
    return commit if isinstance(commit, str) else None
