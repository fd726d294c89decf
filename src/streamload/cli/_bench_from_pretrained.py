"""`streamload bench from_pretrained`.

Part of `cli`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

__all__ = ["from_pretrained"]


@click.command(name="from_pretrained")
@click.argument("path", required=False)
@click.option("--device", default="cpu", show_default=True, help='"cpu" or "cuda:0".')
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Pairs of each figure.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the result to this file.")
@click.option("--quick", is_flag=True, help="Two pairs, for a first look.")
def from_pretrained(path: str | None, *, device: str, repeat: int, json_path: str | None, quick: bool) -> None:
    """Measure transformers' from_pretrained, stock and streamed.

    Prints the time from the call until it returns, until the first token, and until all is resident, and the peak
    memory, each load in a process of its own. PATH is the directory of a causal language model; without it a Llama of
    about 1 GB is made in a temporary directory.
    """
    from ..bench import PretrainedSettings, run_pretrained_bench

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_path}: there is no such folder")
    settings = PretrainedSettings(
        path=path,
        device=device,
        repeat=repeat,
        quick=quick,
        command=shlex.join(["streamload", *sys.argv[1:]]),
    )
    result = run_pretrained_bench(settings)
    click.echo(result.table())
    if json_path is not None:
        result.write(Path(json_path))
        click.echo(f"written to {json_path}")
