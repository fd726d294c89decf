"""`streamload demo`.

Part of `cli`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import click

from ._common import bad_values_refused, command_line, speaks_unicode

__all__ = ["demo"]

_LEAST_WIDTH: Final = 60
_MOST_WIDTH: Final = 160


@click.command()
@click.option("--model", type=click.Path(), help="A real checkpoint's directory, instead of one made here.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    default="streamload-demo",
    show_default=True,
    help="Where the checkpoint and the results go; kept and used again.",
)
@click.option("--device", default="auto", show_default=True, help='"cpu", "cuda:0", or a GPU if there is one.')
@click.option("--scale", type=click.Choice(["tiny", "small", "large"]), default="small", show_default=True)
@click.option("--tokens", type=click.IntRange(1), help="Length of the prompt.  [default: by scale]")
@click.option("--link", type=click.FloatRange(0, min_open=True), help="Rate of the simulated link, in GB/s.")
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Pairs of runs.")
def demo(
    *,
    model: str | None,
    directory: str,
    device: str,
    scale: str,
    tokens: int | None,
    link: float | None,
    repeat: int,
) -> None:
    """Watch a model compute while its own weights arrive.

    Loads one checkpoint the usual way and streamed, checks that both give the same bits, and shows what happened
    when. Exits with 1 if the outputs differ or streaming was not faster. tiny is a few MB, small about 1 GB,
    large about 9 GB.

    Example: streamload demo --scale small --directory /tmp/streamload-demo
    """
    from .._demo import DemoSettings, run_demo

    settings = DemoSettings(
        directory=Path(directory),
        model=None if model is None else Path(model),
        device=device,
        scale=scale,
        tokens=tokens,
        link_bytes_per_second=None if link is None else link * 1e9,
        repeat=repeat,
        width=min(max(shutil.get_terminal_size((100, 40)).columns, _LEAST_WIDTH), _MOST_WIDTH),
        unicode=speaks_unicode(),
        command=command_line(),
    )
    with bad_values_refused():
        passed = run_demo(settings, say=click.echo)
    sys.exit(0 if passed else 1)
