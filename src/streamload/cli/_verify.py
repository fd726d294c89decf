"""`streamload manifest` and `streamload verify`: what files at rest sum to.

Part of `cli`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .._units import say_bytes, say_count, say_seconds
from ..options import StreamOptions
from ._common import Refusal, bad_values_refused, speaks_unicode, storage_option, storage_options
from ._describe import printable, table

if TYPE_CHECKING:
    from .._pull import ModelsVerdict

__all__ = ["manifest", "verify"]


@click.command()
@click.argument("path")
@storage_option
@click.option("--manifest", "file", type=click.Path(dir_okay=False), help="Write here.  [default: beside the shards]")
def manifest(path: str, *, given: tuple[str, ...], file: str | None) -> None:
    """Sum every byte of a checkpoint and write the checksums down, for verify and for loads that check.

    Of a URL only with --manifest: nothing is written into a store.

    \b
    Example:
      streamload manifest models/llama-3-8b
    """
    from .._verify import make_manifest
    from ._describe import describe_summed

    with bad_values_refused():
        options = StreamOptions.from_env(os.environ)
        summed = make_manifest(path, manifest=file, options=options, storage_options=storage_options(given))
    click.echo(describe_summed(summed))


@click.command()
@click.argument("path")
@storage_option
@click.option("--manifest", "file", type=click.Path(), help="Compare with this.  [default: what is there, see above]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a list.")
def verify(path: str, *, given: tuple[str, ...], file: str | None, as_json: bool) -> None:
    """Read every byte of a checkpoint, or of pulled models, once and compare it with what is written down.

    A checkpoint is held to the manifest beside its shards (streamload manifest): a CRC-32C for every tensor. A
    directory with a models.json (streamload pull) is held to that: a SHA-256 for every file of every model.

    Exits with 0 if every byte is right, with 1 if something is wrong, with 2 if that could not be found out.
    What the page cache holds is read from there; STREAMLOAD_OPTION_DIRECT_IO=true asks the drive for every byte of a
    checkpoint.

    \b
    Examples:
      streamload verify models/llama-3-8b
      streamload verify models --json
      streamload verify s3://bucket/llama-3-8b
    """
    from .._verify import verify as compare
    from ._describe import describe_verdict, verdict_text

    if _lists_models(path, file):
        _verify_models(path, file, as_json=as_json)
    if file is None and _is_half_pulled(path):
        raise Refusal(f"{printable(path)}: the pull is not complete; run it again")

    with bad_values_refused():
        options = StreamOptions.from_env(os.environ)
        verdict = compare(path, manifest=file, options=options, storage_options=storage_options(given))
    if as_json:
        click.echo(json.dumps(describe_verdict(verdict), indent=2))
    else:
        click.echo(verdict_text(verdict, unicode=speaks_unicode()))
    sys.exit(0 if verdict.right else 1)


def _lists_models(path: str, file: str | None) -> bool:
    """Whether a directory is held to a list of models: by the name of `--manifest`, else by what is in it."""
    from .._checksums import MANIFEST_NAME
    from .._pull import LIST_NAME
    from .._sources import is_remote

    if file is not None:
        return Path(file).name == LIST_NAME
    return not is_remote(path) and Path(path, LIST_NAME).is_file() and not Path(path, MANIFEST_NAME).exists()


def _is_half_pulled(path: str) -> bool:
    """Whether a directory has no manifest because what should be there is not: making one would bless what is."""
    from .._checksums import MANIFEST_NAME
    from .._pull import is_unfinished
    from .._sources import is_remote

    return not is_remote(path) and not Path(path, MANIFEST_NAME).exists() and is_unfinished(Path(path))


def _verify_models(path: str, file: str | None, *, as_json: bool) -> NoReturn:
    from tqdm import tqdm

    from .._pull import verify_models

    with tqdm(total=0, unit="B", unit_scale=True, desc="reading", leave=False, disable=None) as bar:

        def report(nbytes: int, total: int) -> None:
            if not bar.disable:
                bar.total = total
                bar.update(nbytes - bar.n)

        verdict = verify_models(path, manifest=file, report=report)
    if as_json:
        click.echo(json.dumps({"right": verdict.right, **asdict(verdict)}, indent=2))
    else:
        click.echo(_models_text(verdict))
    sys.exit(0 if verdict.right else 1)


def _models_text(verdict: ModelsVerdict) -> str:
    counted = f"{say_count(verdict.files, 'file')} of {say_count(verdict.models, 'model')}"
    read = f"{say_bytes(verdict.nbytes)} in {counted}, read in {say_seconds(verdict.seconds)}"
    if verdict.right:
        return f"right: {read}"
    rows = [(printable(fault.model), printable(fault.file) or "-", fault.text) for fault in verdict.faults]
    head = f"wrong: {say_count(len(verdict.faults), 'fault')}; {read}; manifest {printable(verdict.manifest)}"
    advice = "Remove the files that are wrong and run the pull again: it fetches what is missing."
    return f"{head}\n\n{table(('model', 'file', 'what'), rows)}\n\n{advice}"
