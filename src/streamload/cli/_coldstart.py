"""`streamload coldstart`.

Part of `cli`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .._whole_file import write_whole
from ._common import Refusal, bad_values_refused
from ._report import check_report_path, report_option, write_report_of

if TYPE_CHECKING:
    from .._coldstart import ColdStartReport

__all__ = ["coldstart"]

_TERMINATED: Final = (0, -15, 128 + 15)  # how a program that took SIGTERM ends


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the report there, too."
)
@click.option(
    "--prometheus",
    "metrics_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write metrics there, in the text format that node_exporter's textfile collector reads.",
)
@report_option
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write phases and each load's reads and copies there, for ui.perfetto.dev.",
)
@click.option(
    "--until",
    metavar="MOMENT",
    help="Measure until then: first_token, all_resident, warm_up, exit, or a name of the program's own.  [default: all "
    "weights are resident and the first token, or without a recorder the first forward, was computed]",
)
@click.option("--stop", is_flag=True, help="End the program then; a server would run on.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def coldstart(
    *,
    json_path: Path | None,
    metrics_path: Path | None,
    trace_path: Path | None,
    report_path: str | None,
    until: str | None,
    stop: bool,
    command: tuple[str, ...],
) -> None:
    """Measure in phases what a Python program's start is spent on.

    Runs it, and says on stderr where its time went: imports, CUDA context, headers, first byte, each layer, first
    token. Ends with the program's exit status. docs/cold-start.md says how to read it.

    Example: streamload coldstart --stop -- python serve.py models/llama-3-8b
    """
    from .._coldstart._run import run_measured

    for path in (json_path, metrics_path, trace_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise Refusal(f"{path}: there is no such directory to write it in")
    check_report_path(report_path)
    if metrics_path is not None:
        with bad_values_refused():
            from .._coldstart import _metrics

    def told(report: ColdStartReport) -> bool:
        click.echo(report.table(), err=True)
        if json_path is not None:
            write_whole(json_path, json.dumps(report.as_dict(), indent=2) + "\n")
        if metrics_path is not None:
            write_whole(metrics_path, _metrics.text(report))
        if trace_path is not None:
            report.write_trace(trace_path)
        if report_path is not None:
            write_report_of(report.as_dict(), report_path, json_path)
        return stop

    with bad_values_refused():
        traces = trace_path is not None
        outcome = run_measured(command, over=lambda report: _over(report, until), then=told, traces=traces)
    if outcome.report is None:
        click.echo("streamload: the program sent no report; is streamload installed in its Python?", err=True)
    if stop and outcome.report is not None and outcome.status in _TERMINATED:
        sys.exit(0)
    sys.exit(outcome.status if outcome.status >= 0 else 128 - outcome.status)


def _over(report: ColdStartReport, until: str | None) -> bool:
    if until is not None:
        return until in report.reached
    computed = "first_token" in report.reached or "first_forward" in report.reached
    return computed and "all_resident" in report.reached
