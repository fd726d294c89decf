"""`streamload bench source`.

Part of `cli`.
"""

from __future__ import annotations

import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._common import storage_option, storage_options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["source"]


@click.command()
@click.argument("url", required=False)
@storage_option
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Rounds; each runs every client.")
@click.option("--range-mib", type=click.IntRange(1, 256), default=8, show_default=True, help="MiB of one request.")
@click.option("--connections", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests in flight.")
@click.option("--no-busy", is_flag=True, help="Leave out the runs beside a main thread that is busy with Python.")
@click.option("--no-peers", is_flag=True, help="Leave out other people's clients.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the result to this file.")
def source(
    url: str | None,
    *,
    given: tuple[str, ...],
    repeat: int,
    range_mib: int,
    connections: int,
    no_busy: bool,
    no_peers: bool,
    json_path: str | None,
) -> None:
    """Measure how fast weights come from an object store.

    URL is a checkpoint; without it one is made and served on this machine by nginx. Beside streamload run raw sockets,
    which are the ceiling, and the clients that are installed, each in a process of its own.

    Example: streamload bench source s3://bucket/model --storage-option endpoint_url=http://127.0.0.1:9000
    """
    from ..bench import SourceSettings, run_source_bench

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_path}: there is no such folder")
    result = run_source_bench(
        SourceSettings(
            url=url,
            storage_options=storage_options(given) or {},
            repeat=repeat,
            range_bytes=range_mib << 20,
            connections=connections,
            busy=not no_busy,
            peers=not no_peers,
            command=_without_values(sys.argv[1:]),
        )
    )
    click.echo(result.table())
    if json_path is not None:
        result.write(Path(json_path))
        click.echo(f"written to {json_path}")


def _without_values(words: Sequence[str]) -> str:
    """Return a command as it was typed, but for the values of its storage options: some are secrets."""
    option = "--storage-option"
    said = ["streamload"]
    for before, word in pairwise(["", *words]):
        key, equals, rest = word.partition("=")
        if before == option and equals:
            word = f"{key}=…"
        elif key == option and equals:
            word = f"{option}={rest.partition('=')[0]}=…"
        said.append(word)
    return shlex.join(said)
