"""`streamload cache`: what a cache directory keeps of stores, and how to make it smaller.

Part of `cli`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .._units import say_bytes, say_count
from ._common import bad_values_refused
from ._describe import printable, table

if TYPE_CHECKING:
    from .._sources._tiers import Entry

__all__ = ["cache"]

_directory = click.option(
    "--cache-dir",
    "directory",
    required=True,
    type=click.Path(file_okay=False),
    help="The directory, as StreamOptions.cache_dir or memory_dir names it.",
)


@click.group()
def cache() -> None:
    """Look at what a cache directory keeps of stores, and make it smaller."""


@cache.command("ls")
@_directory
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(directory: str, *, as_json: bool) -> None:
    """List the objects that a cache directory holds whole or in part, what was used last first.

    Exits with 2 if there is no such directory, or it is not that of a cache.

    \b
    Example:
      streamload cache ls --cache-dir /mnt/nvme/streamload
    """
    from .._sources._tiers import check_tier, list_entries

    check_tier(directory)
    entries = list_entries(directory)
    stored = sum([entry.stored_bytes for entry in entries])
    if as_json:
        described = {"directory": directory, "stored_bytes": stored, "entries": [asdict(entry) for entry in entries]}
        click.echo(json.dumps(described, indent=2))
        return
    click.echo(f"{say_count(len(entries), 'object')} in {printable(directory)}: {say_bytes(stored)}")
    if entries:
        rows = [_row(entry, time.time()) for entry in entries]
        click.echo("\n" + table(("object", "bytes", "stored", "state", "used"), rows))


@cache.command()
@_directory
@click.option(
    "--max-bytes", help="Then remove what was used least lately, down to this, such as 200GB.  [default: keep]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a line.")
def prune(directory: str, *, max_bytes: str | None, as_json: bool) -> None:
    """Remove parts of objects that nobody goes on with and, above --max-bytes, whole objects. Never what is in use.

    Exits with 2 if there is no such directory, it is not that of a cache, or something cannot be removed.

    \b
    Examples:
      streamload cache prune --cache-dir /mnt/nvme/streamload
      streamload cache prune --cache-dir /mnt/nvme/streamload --max-bytes 200GB
    """
    from .._sources._tiers import check_tier
    from .._sources._tiers import prune as prune_tier
    from ._forecast import parse_size

    with bad_values_refused():
        limit = None if max_bytes is None else parse_size(max_bytes)
    check_tier(directory)
    pruned = prune_tier(directory, limit)
    if as_json:
        click.echo(json.dumps({"directory": directory, **asdict(pruned)}, indent=2))
    else:
        gone = f"{say_count(len(pruned.entries), 'object')} removed from {printable(directory)}"
        click.echo(f"{gone}: {say_bytes(pruned.freed_bytes)} freed, {say_bytes(pruned.kept_bytes)} kept")


def _row(entry: Entry, now: float) -> tuple[str, str, str, str, str]:
    state = "whole" if entry.complete else "part"
    return (
        printable(entry.url) or "(unknown)",
        say_bytes(entry.nbytes),
        say_bytes(entry.stored_bytes),
        f"{state}, in use" if entry.in_use else state,
        _ago(now - entry.used),
    )


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{say_count(int(seconds // length), unit)} ago"
    return "now"
