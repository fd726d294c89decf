"""`streamload inspect` and `streamload plan`: what headers alone say.

Part of `cli`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace

import click

from ..options import StreamOptions
from ._common import bad_values_refused, opened, storage_option
from ._selection import ORDERS, dtype_option, match_option, select

__all__ = ["inspect", "plan"]


@click.command()
@click.argument("path")
@storage_option
@click.option("--tensors", is_flag=True, help="List every tensor and where its bytes lie, not only the layers.")
@match_option
@dtype_option
@click.option("--sort", "order", type=click.Choice(ORDERS), help="List the tensors in this order.  [default: offset]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect(
    path: str,
    *,
    given: tuple[str, ...],
    tensors: bool,
    globs: tuple[str, ...],
    dtypes: tuple[str, ...],
    order: str | None,
    as_json: bool,
) -> None:
    """Show what a checkpoint holds: shards, layers, dtypes, bytes. Reads headers only.

    PATH is a file, a directory, an index, or the URL of one (s3://, gs://, az://, hf://, https://). With --match or
    --dtype only those tensors are counted, and listed. Largest sizes come first; start and end count bytes from the
    beginning of the shard's file.

    \b
    Examples:
      streamload inspect models/llama-3-8b
      streamload inspect models/qwen3-30b-a3b --match '*.experts.0.*' --sort size
      streamload inspect s3://bucket/llama-3-8b --storage-option endpoint_url=https://s3.example.com
    """
    from ._describe import describe_checkpoint, inspect_tables

    with bad_values_refused():
        options = StreamOptions.from_env(os.environ)
    with opened(path, given, options) as checkpoint:
        chosen = select(checkpoint, globs=globs, dtypes=dtypes, order=order or "offset")
        if as_json:
            click.echo(json.dumps(describe_checkpoint(chosen), indent=2))
        else:
            click.echo(inspect_tables(chosen, tensors=bool(tensors or globs or dtypes or order)))


@click.command()
@click.argument("path")
@storage_option
@match_option
@dtype_option
@click.option("--chunk-bytes", type=int, help="Largest single read, in bytes.  [default: the engine's]")
@click.option("--device", help="Predict times on this device, such as h100, a100-80g, l4 or rtx4090.")
@click.option("--device-memory", help="What weights may take of it, such as 20GB.  [default: nine tenths]")
@click.option("--storage", help="page-cache, nvme, or a rate such as 14GB/s.  [default: page-cache]")
@click.option("--link", help="Rate of the link, such as 55GB/s.  [default: the device's]")
@click.option("--tokens", multiple=True, help="Prompt lengths; several times or 128,2048.  [default: 128,2048,8192]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(
    path: str,
    *,
    given: tuple[str, ...],
    globs: tuple[str, ...],
    dtypes: tuple[str, ...],
    chunk_bytes: int | None,
    device: str | None,
    device_memory: str | None,
    storage: str | None,
    link: str | None,
    tokens: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show how a checkpoint would be read: groups, reads, copies, bytes and where they lie. Reads headers only.

    With --match or --dtype: how those tensors alone would be.

    With --device: the memory it needs there, when the first token would come, and how fast passes would be if it does
    not fit. Predicted from a table of devices; config.json beside the checkpoint is read too.

    \b
    Examples:
      streamload plan models/llama-3-8b --match '*.mlp.*'
      streamload plan models/llama-3-8b --device h100
      streamload plan hf://org/name --device l4 --storage 1GB/s
    """
    from ._describe import describe_plan, plan_table

    if device is None and (tokens or any(given is not None for given in (device_memory, storage, link))):
        raise click.UsageError("--device-memory, --storage, --link and --tokens are of a device; give --device too")
    if device is not None and (globs or dtypes):
        raise click.UsageError("--device is about a whole checkpoint; leave out --match and --dtype")
    options = _options(chunk_bytes)
    if device is not None:
        from ._forecast import describe_forecast, forecast_layers, forecast_text

        with opened(path, given, options) as checkpoint, bad_values_refused():
            found = forecast_layers(
                checkpoint,
                options,
                device=device,
                device_memory=device_memory,
                link=link,
                storage=storage,
                tokens=tokens,
            )
        click.echo(json.dumps(describe_forecast(found), indent=2) if as_json else forecast_text(found))
        return
    with opened(path, given, options) as checkpoint:
        chosen = select(checkpoint, globs=globs, dtypes=dtypes)
        layers = describe_plan(chosen, chunk_bytes=options.chunk_bytes)
    if as_json:
        described = {"chunk_bytes": options.chunk_bytes, "layers": [asdict(layer) for layer in layers]}
        click.echo(json.dumps(described, indent=2))
    else:
        click.echo(plan_table(layers, chunk_bytes=options.chunk_bytes))


def _options(chunk_bytes: int | None) -> StreamOptions:
    """Return the options that the environment and the command line give together."""
    with bad_values_refused():
        options = StreamOptions.from_env(os.environ)
        if chunk_bytes is None:
            return options
        return replace(options, chunk_bytes=chunk_bytes, staging_bytes=max(options.staging_bytes, 2 * chunk_bytes))
