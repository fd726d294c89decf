"""The options that the benchmarks share, and what becomes of a result.

Part of `cli`. `repeat_option` and the others are decorators of a command; `measured` runs a benchmark from its first
check to the written file.
"""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import click

from ._progress import BenchScreen
from ._report import check_report_path, report_option, write_report_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..bench import BenchProgress

__all__ = [
    "cold_option",
    "device_option",
    "json_option",
    "measured",
    "repeat_option",
    "report_option",
    "trace_option",
    "without_values",
]

C = TypeVar("C", bound="Callable[..., object]")

json_option = click.option(
    "--json", "json_path", type=click.Path(dir_okay=False), help="Also write the result to this file."
)
"""Where the result is written to, for `measured`."""

trace_option = click.option(
    "--trace", "trace_path", type=click.Path(dir_okay=False), help="Also write timelines there, for ui.perfetto.dev."
)
"""Where the result's timelines are written to, likewise."""


class Result(Protocol):
    """What every benchmark returns."""

    def table(self) -> str:
        """Return it as text."""

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""

    def write(self, path: Path) -> None:
        """Write it as JSON."""

    def write_trace(self, path: Path) -> None:
        """Write its timelines for a viewer of traces."""


def device_option(words: str = '"cpu" or "cuda:0".') -> Callable[[C], C]:
    """Make the option of the device."""
    return click.option("--device", default="cpu", show_default=True, help=words)


def repeat_option(default: int, words: str = "Rounds; each runs everything.") -> Callable[[C], C]:
    """Make the option of how often everything runs."""
    return click.option("--repeat", type=click.IntRange(1), default=default, show_default=True, help=words)


def cold_option(words: str) -> Callable[[C], C]:
    """Make the option of a page cache that holds nothing."""
    return click.option("--cold", is_flag=True, help=words)


def measured(
    run: Callable[[BenchProgress], Result],
    json_path: str | None,
    *,
    trace_path: str | None = None,
    report_path: str | None = None,
) -> None:
    """Run a benchmark, print its table and write its result, if a path was given.

    What would keep the result from being written is said before anything is measured.

    Args:
        run: Measures, and tells how far it is.
        json_path: The file; None: nothing is written.
        trace_path: The file for its timelines, likewise.
        report_path: The file of a report, likewise.

    Raises:
        click.UsageError: A file's folder does not exist.
        BenchError: The native core is no release build, and a file was asked for.
        ReportError: The report cannot be written there.
    """
    for option, path in (("--json", json_path), ("--trace", trace_path)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise click.UsageError(f"{option} {path}: there is no such folder")
    check_report_path(report_path)
    if json_path is not None or report_path is not None:
        from .. import _native
        from ..bench._result import check_build

        check_build(_native.build_type)
    with BenchScreen(sys.stderr) as screen:
        result = run(screen)
    click.echo(result.table())
    if json_path is not None:
        result.write(Path(json_path))
        click.echo(f"written to {json_path}")
    if trace_path is not None:
        result.write_trace(Path(trace_path))
        click.echo(f"timelines written to {trace_path}")
    if report_path is not None:
        write_report_of(result.as_dict(), report_path, None if json_path is None else Path(json_path))


def without_values(words: Sequence[str] | None = None) -> str:
    """Return a command as it was typed, but for the values of its storage options: some are secrets.

    Args:
        words: What was typed behind "streamload"; None: this process's arguments.
    """
    option = "--storage-option"
    said = ["streamload"]
    for before, word in pairwise(["", *(sys.argv[1:] if words is None else words)]):
        key, equals, rest = word.partition("=")
        if before == option and equals:
            word = f"{key}=…"
        elif key == option and equals:
            word = f"{option}={rest.partition('=')[0]}=…"
        said.append(word)
    return shlex.join(said)
