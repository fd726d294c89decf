"""`streamload report`, and the `--report` of other commands.

Part of `cli`.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import __version__
from ._common import bad_values_refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._report import Result

__all__ = ["check_report_path", "report", "report_option", "write_report_of"]

report_option = click.option(
    "--report",
    "report_path",
    metavar="FILE",
    help="Also make a report of it: FILE.html is a page; FILE.png, FILE.svg or a FOLDER/ are its charts.",
)
"""Where a report of the result is written to."""


@click.command()
@click.argument(
    "results",
    nargs=-1,
    required=True,
    metavar="RESULT.json...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--to",
    "target",
    metavar="FILE",
    default="report.html",
    show_default=True,
    help="FILE.html is a page with everything in it; FILE.png or FILE.svg are all charts in one; a FOLDER/ gets "
    "both of each chart.",
)
def report(*, results: tuple[Path, ...], target: str) -> None:
    """Make a page, or pictures, of results that were written with --json.

    The page holds all of it, needs no network, and hands the data out again. docs/report.md shows one.

    Example: streamload report benchmarks/results/*.json --to report.html
    """
    from .._report import read_result

    check_report_path(target)
    _written([read_result(path) for path in results], target)


def check_report_path(target: str | None) -> None:
    """Say what would keep a report from being written, before anything is measured.

    Raises:
        Refusal: A library is missing.
        ReportError: The path asks for no form of a report, or its folder is not there.
    """
    if target is not None:
        from .._report import check_report

        with bad_values_refused():
            check_report(target)


def write_report_of(content: Mapping[str, object], target: str, json_path: Path | None) -> None:
    """Write a report of a result that was just measured.

    Args:
        content: The result.
        target: Where the report goes.
        json_path: Where the result itself went, whose name the report's data then has.
    """
    from .._report import result_of

    name = json_path.name if json_path is not None else f"{Path(target).stem}.json"
    _written([result_of(name, json.dumps(content, indent=2) + "\n")], target)


def _written(results: Sequence[Result], target: str) -> None:
    from .._report import write_report

    made = f"Made on {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by streamload {__version__}"
    with bad_values_refused():
        for path in write_report(results, target, made=made):
            click.echo(f"report written to {path}", err=True)
