"""`streamload doctor`: what will be slow here, and what to do.

Part of `cli`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import StreamOptions
from ._common import bad_values_refused
from ._describe import printable, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._doctor import Finding

__all__ = ["doctor"]

_WORST_FIRST = ("wrong", "slow", "unknown", "ok")
_SOMETHING_WRONG = 1


@click.command()
@click.argument("path", required=False)
@click.option(
    "--json", "json_path", metavar="FILE", help="Also write the findings to this file; - for standard output, alone."
)
@click.pass_context
def doctor(context: click.Context, path: str | None, *, json_path: str | None) -> None:
    """Say what will be slow here, or fail, and what helps: one line for each thing that was looked at.

    Looked at are memory, huge pages, NUMA, a container's limits, io_uring, the GPU and its link, torch, and the
    credentials of stores (whether they are there, never what they are); with PATH, a checkpoint or where one will lie,
    also its file system and drive. PATH may be a URL, such as s3://bucket/name: nothing is asked of it. docs/doctor.md
    has a paragraph on each line.

    Exits with 0 if loads will work, however slow; with 1 if something is wrong; with 2 if there is no such PATH.

    \b
    Examples:
      streamload doctor
      streamload doctor /mnt/nvme/models/llama-3-8b
      streamload doctor s3://bucket/llama-3-8b --json -
    """
    from .._doctor import Environment, examine
    from .._sources import is_remote, local_path
    from .._whole_file import write_whole

    with bad_values_refused():
        options = StreamOptions.from_env(os.environ)
        remote = path is not None and is_remote(path)
        place = None if path is None or remote else Path(local_path(path))
    findings = examine(
        place,
        environment=Environment.from_env(os.environ),
        scheme=path.partition("://")[0].lower() if path is not None and remote else "",
        options=options,
    )
    wrong = any(finding.state == "wrong" for finding in findings)
    described = json.dumps({"ok": not wrong, "findings": [asdict(finding) for finding in findings]}, indent=2)
    if json_path == "-":
        click.echo(described)
    else:
        click.echo(_text(findings, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
        if json_path is not None:
            write_whole(Path(json_path), f"{described}\n")
            click.echo(f"written to {printable(json_path)}")
    context.exit(_SOMETHING_WRONG if wrong else 0)


def _text(findings: Sequence[Finding], columns: int | None) -> str:
    """Return findings as text: a table, and what sums it up.

    Where a terminal is too narrow for it, why and what to do stand in lines of their own below what is not ok.

    Args:
        findings: In the order of the checks.
        columns: Width of the terminal; None where there is none.
    """
    rows = [
        tuple(printable(" ".join(cell.split())) for cell in (each.state, each.check, each.found, each.why, each.fix))
        for each in findings
    ]
    whole = table(("state", "what", "found", "why it matters", "what to do"), rows)
    if columns is not None and max(map(len, whole.splitlines())) > columns:
        lines = table(("state", "what", "found"), [row[:3] for row in rows]).splitlines()
        parts = [lines[0]]
        for row, line in zip(rows, lines[1:], strict=True):
            parts.append(line)
            if row[0] != "ok":
                parts += [f"         {text}" for text in (row[3], row[4] and f"> {row[4]}") if text]
        whole = "\n".join(parts)
    counts = {state: sum(finding.state == state for finding in findings) for state in _WORST_FIRST}
    return f"{whole}\n\n{', '.join(f'{count} {state}' for state, count in counts.items() if count)}"
