"""`streamload bench compare` and `streamload bench schema`.

Part of `cli`.
"""

from __future__ import annotations

import json
import os

import click

from ._bench_options import (
    cold_option,
    device_option,
    json_option,
    measured,
    repeat_option,
    report_option,
    trace_option,
)
from ._common import bad_values_refused, command_line

__all__ = ["compare", "schema"]


@click.command()
@click.argument("model", required=False)
@device_option()
@repeat_option(5, "Rounds; each runs every loader.")
@cold_option("Only with the files out of the page cache.")
@json_option
@trace_option
@report_option
def compare(
    model: str | None,
    *,
    device: str,
    repeat: int,
    cold: bool,
    json_path: str | None,
    trace_path: str | None,
    report_path: str | None,
) -> None:
    """Load a model with every loader that is installed, by turns, warm and cold: one table.

    MODEL is a safetensors file or a checkpoint's directory; without it one of about 1 GB is made in a temporary
    directory. Each loader is called as its own documentation says and leaves tensors that own their memory; its bytes
    are compared with safetensors' first. A loader that cannot run is listed with the reason.

    Example: streamload bench compare models/llama-3-8b --device cuda:0
    """
    from ..bench import CompareSettings, PeerSettings, run_compare_bench

    settings = CompareSettings(
        path=model,
        device=device,
        repeat=repeat,
        cold=cold,
        peer_settings=PeerSettings.from_env(os.environ),
        command=command_line(),
    )
    with bad_values_refused():
        measured(
            lambda progress: run_compare_bench(settings, progress),
            json_path,
            trace_path=trace_path,
            report_path=report_path,
        )


@click.command()
@click.argument("kind", required=False)
def schema(kind: str | None) -> None:
    """Print the JSON Schema of a KIND of result, or without KIND the names of all.

    Example: streamload bench schema link
    """
    from ..bench import result_kinds, result_schema

    if kind is None:
        click.echo("\n".join(result_kinds()))
    else:
        click.echo(json.dumps(result_schema(kind), indent=2))
