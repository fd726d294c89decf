"""`streamload bench link` and `streamload bench storage`: what the machine itself can do.

Part of `cli`.
"""

from __future__ import annotations

import click

from ._bench_options import (
    cold_option,
    device_option,
    json_option,
    measured,
    repeat_option,
    report_option,
    without_values,
)
from ._common import bad_values_refused, command_line, storage_option, storage_options

__all__ = ["link", "storage"]


@click.command()
@device_option('"cuda:0", or "cpu", where host memory stands for a device.')
@repeat_option(20)
@json_option
@report_option
def link(*, device: str, repeat: int, json_path: str | None, report_path: str | None) -> None:
    """Measure the link to the device: copies by their size, pinned and pageable, and what pinning costs.

    On "cpu" there is no link: copies within host memory stand for it, and the table says so.

    Example: streamload bench link --device cuda:0 --json link.json
    """
    from ..bench import LinkSettings, run_link_bench

    settings = LinkSettings(device=device, repeat=repeat, command=command_line())
    with bad_values_refused():
        measured(lambda progress: run_link_bench(settings, progress), json_path, report_path=report_path)


@click.command()
@click.argument("where", metavar="[PATH|URL]", required=False)
@storage_option
@repeat_option(14, "Rounds; each runs every way to read.")
@cold_option("Of a drive, only what does not come from the page cache.")
@json_option
@report_option
def storage(
    where: str | None,
    *,
    given: tuple[str, ...],
    repeat: int,
    cold: bool,
    json_path: str | None,
    report_path: str | None,
) -> None:
    """Measure the drive, or the bucket, that weights come from.

    PATH is a file or a directory of files; without it a file is made in the temporary directory (TMPDIR chooses the
    drive). It is read cold, around the page cache and through it, and warm, by depth and size. URL is a checkpoint in a
    store: read by the number of connections, and how long the first byte takes. Only so many bytes are read as a few
    minutes allow.

    Example: streamload bench storage models/llama-3-8b
    """
    from ..bench import StorageSettings, run_storage_bench

    with bad_values_refused():
        settings = StorageSettings(
            where=where,
            storage_options=storage_options(given) or {},
            repeat=repeat,
            cold=cold,
            command=without_values(),
        )
        measured(lambda progress: run_storage_bench(settings, progress), json_path, report_path=report_path)
