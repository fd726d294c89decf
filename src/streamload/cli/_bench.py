"""`streamload bench`: the group, and `streamload bench engine`.

Part of `cli`.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from ._bench_from_pretrained import from_pretrained
from ._bench_overlap import overlap
from ._bench_source import source
from ._common import bad_values_refused, command_line

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure, against a ceiling and peers measured in the same process."""


@bench.command()
@click.argument("path", required=False)
@click.option("--device", default="cpu", show_default=True, help='"cpu" or "cuda:0".')
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Rounds; each runs everything.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the result to this file.")
@click.option("--cold", is_flag=True, help="Drop the files from the page cache before each run.")
@click.option("--tensors", type=click.IntRange(1), help="Make a checkpoint of that many tensors (without PATH).")
@click.option("--many-tensors", is_flag=True, help="Compare the same bytes in 300 tensors and in 20,000.")
def engine(
    path: str | None,
    *,
    device: str,
    repeat: int,
    json_path: str | None,
    cold: bool,
    tensors: int | None,
    many_tensors: bool,
) -> None:
    """Measure how fast a checkpoint reaches memory: the ceiling, streamload, and its peers.

    Without PATH a checkpoint of about 1 GB is made in a temporary directory.
    """
    from ..bench import PeerSettings, run_engine_bench, run_many_tensors_bench

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_path}: there is no such folder")
    if path is not None and (tensors is not None or many_tensors):
        raise click.UsageError("--tensors and --many-tensors make their own checkpoint; leave out PATH")
    if many_tensors and (cold or tensors is not None):
        raise click.UsageError("--many-tensors runs warm, with tensors of its own; leave out --cold and --tensors")
    with bad_values_refused():
        result = (
            run_many_tensors_bench(device=device, repeat=repeat, command=command_line())
            if many_tensors
            else run_engine_bench(
                path,
                device=device,
                repeat=repeat,
                cold=cold,
                tensors=tensors,
                peer_settings=PeerSettings.from_env(os.environ),
                command=command_line(),
            )
        )
    click.echo(result.table())
    if json_path is not None:
        result.write(Path(json_path))
        click.echo(f"written to {json_path}")


bench.add_command(overlap)
bench.add_command(from_pretrained)
bench.add_command(source)
