"""`streamload bench agree`.

Part of `cli`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ._common import Refusal

__all__ = ["agree"]

_DISAGREE = 1

_result_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("first", type=_result_file)
@click.argument("second", type=_result_file)
@click.option("--anyway", is_flag=True, help="Compare results of other machines or settings, too; it is said.")
@click.pass_context
def agree(context: click.Context, first: Path, second: Path, *, anyway: bool) -> None:
    """Say whether two results of one kind agree: every median within the spread of the rounds.

    FIRST and SECOND are what --json wrote. For each figure stand both medians, both spreads (greatest less least, as a
    part of the median), and whether the medians differ by no more than the larger of greatest less least. Exits with 1
    where one does not, or is in one of them only. Results of other machines or settings are refused.

    Example: streamload bench agree monday.json tuesday.json
    """
    from ..bench import agreement_of

    found = agreement_of(_read(first), _read(second), whatever_differs=anyway)
    click.echo(found.table())
    if not found.agrees:
        context.exit(_DISAGREE)


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON, or UTF-8
        raise Refusal(f"{path}: is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refusal(f"{path}: is no result: a JSON object is wanted")
    return content
