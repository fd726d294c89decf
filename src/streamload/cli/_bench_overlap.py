"""`streamload bench overlap`.

Part of `cli`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

__all__ = ["overlap"]


@click.command()
@click.argument("path", required=False)
@click.option("--device", default="cpu", show_default=True, help='"cpu", over a simulated link, or "cuda:0".')
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Rounds; each runs every pass.")
@click.option("--tokens", help="Lengths of the prompts, such as 128,2048,8192.  [default: by device]")
@click.option("--link", type=click.FloatRange(0, min_open=True), help="Rate of the simulated link, in GB/s.")
@click.option("--real-compute", is_flag=True, help="Without a GPU: compute all of a prompt, beside the copies.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Also write the result to this file.")
@click.option("--quick", is_flag=True, help="Measure less, for a first look.")
def overlap(
    path: str | None,
    *,
    device: str,
    repeat: int,
    tokens: str | None,
    link: float | None,
    real_compute: bool,
    json_path: str | None,
    quick: bool,
) -> None:
    """Measure how much of moving weights is hidden behind computing.

    Prints the time to the first token over max(X, C): X moves all weights at the rate measured now, C is the pass with
    everything resident. PATH is the directory of a transformers model; without it a Llama is made in a temporary
    directory.
    """
    from ..bench import OverlapSettings, run_overlap_bench

    if json_path is not None and not Path(json_path).absolute().parent.is_dir():
        raise click.UsageError(f"--json {json_path}: there is no such folder")
    result = run_overlap_bench(
        OverlapSettings(
            path=path,
            device=device,
            repeat=repeat,
            tokens=_lengths(tokens),
            link_bytes_per_second=None if link is None else link * 1e9,
            real_compute=real_compute,
            quick=quick,
            command=shlex.join(["streamload", *sys.argv[1:]]),
        )
    )
    click.echo(result.table())
    if json_path is not None:
        result.write(Path(json_path))
        click.echo(f"written to {json_path}")


def _lengths(text: str | None) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise click.UsageError(f"--tokens {text}: whole numbers with commas between are wanted") from error
    if any(length < 1 for length in lengths):
        raise click.UsageError(f"--tokens {text}: a prompt has at least one token")
    return lengths
