"""Two results held against each other, as text within 120 columns.

Part of `bench._agree`; pure.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from ..._units import say_bytes, say_count, say_rate, say_seconds
from .._samples import spread_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._samples import SampledFigure
    from ._agreement import Agreement, AgreementRow

__all__ = ["agreement_table"]

_NAME = 50
_COLUMNS = {"first": 11, "spread": 8, "second": 11, "spread ": 8, "2nd/1st": 9}


def agreement_table(agreement: Agreement) -> str:
    """Return it as text."""
    return "\n".join([*_heading(agreement), *map(_row, agreement.rows), "", *_summary(agreement)])


def _heading(agreement: Agreement) -> Iterator[str]:
    yield f"two results of streamload {agreement.kind}; medians, which agree within the larger slowest less fastest"
    yield from (f"NOT THE SAME: {difference}" for difference in agreement.differences)
    first, second = agreement.commits
    if first != second:
        yield f"measured by different code: {first or 'unknown'} and {second or 'unknown'}"
    yield ""
    yield f"{'':<{_NAME}}" + "".join(f"{name.strip():>{width}}" for name, width in _COLUMNS.items())


def _row(row: AgreementRow) -> str:
    name = row.first.name if len(row.first.name) < _NAME else f"{row.first.name[: _NAME - 2]}…"
    ratio = "-"
    if row.first.samples and row.second.samples:
        ratio = f"{_shown(row.second) / _shown(row.first):.3f}"
    cells = (*_cells(row.first), *_cells(row.second), ratio)
    line = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMNS.values(), strict=True))
    return f"{name:<{_NAME}}{line}  {row.verdict}"


def _cells(figure: SampledFigure) -> tuple[str, str]:
    if not figure.samples:
        return "-", "-"
    spread = "-" if len(figure.samples) == 1 else f"{spread_of(figure.samples):.0%}"
    return _say(figure), spread


def _say(figure: SampledFigure) -> str:
    if figure.unit == "s":
        return say_seconds(median(figure.samples))
    if figure.unit == "s/GB":
        return say_rate(_shown(figure))
    return say_bytes(median(figure.samples)) if figure.unit == "B" else f"{median(figure.samples):.4f}"


def _shown(figure: SampledFigure) -> float:
    """Return the number that is shown: a rate where the samples are seconds for so many bytes."""
    middle = median(figure.samples)
    return 1e9 / middle if figure.unit == "s/GB" else middle


def _summary(agreement: Agreement) -> Iterator[str]:
    verdicts = [row.verdict for row in agreement.rows]
    agree, differ = verdicts.count("agrees"), verdicts.count("DIFFERS")
    said = [
        f"{agree} of {say_count(agree + differ, 'figure')} agree within the spread",
        *([f"{differ} {'differs' if differ == 1 else 'differ'}"] if differ else []),
        *(
            f"{verdicts.count(verdict)} {words}"
            for verdict, words in (
                ("only in the first", "only in the first result"),
                ("only in the second", "only in the second result"),
                ("one sample", "of one sample, which has no spread"),
            )
            if verdict in verdicts
        ),
    ]
    yield ", ".join(said)
