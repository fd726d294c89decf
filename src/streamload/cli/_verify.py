"""`streamload manifest` and `streamload verify`: what files at rest sum to.

Part of `cli`.
"""

from __future__ import annotations

import json
import os
import sys

import click

from ..options import StreamOptions
from ._common import bad_values_refused, speaks_unicode

__all__ = ["manifest", "verify"]


@click.command()
@click.argument("path")
@click.option("--manifest", "file", type=click.Path(dir_okay=False), help="Write here.  [default: beside the shards]")
def manifest(path: str, *, file: str | None) -> None:
    """Sum every byte of a checkpoint and write the checksums down, for verify and for loads that check."""
    from .._verify import make_manifest
    from ._describe import describe_summed

    with bad_values_refused():
        summed = make_manifest(path, manifest=file, options=StreamOptions.from_env(os.environ))
    click.echo(describe_summed(summed))


@click.command()
@click.argument("path")
@click.option("--manifest", "file", type=click.Path(), help="Compare with this.  [default: beside the shards]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a list.")
def verify(path: str, *, file: str | None, as_json: bool) -> None:
    """Read every byte of a checkpoint once and compare it with its manifest.

    Exits with 0 if every byte is right, with 1 if something is wrong, with 2 if that could not be found out.
    What the page cache holds is read from there; STREAMLOAD_OPTION_DIRECT_IO=true asks the drive for every byte.
    """
    from .._verify import verify as compare
    from ._describe import describe_verdict, verdict_text

    with bad_values_refused():
        verdict = compare(path, manifest=file, options=StreamOptions.from_env(os.environ))
    if as_json:
        click.echo(json.dumps(describe_verdict(verdict), indent=2))
    else:
        click.echo(verdict_text(verdict, unicode=speaks_unicode()))
    sys.exit(0 if verdict.right else 1)
