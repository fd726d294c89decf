"""`streamload bench source`.

Part of `cli`.
"""

from __future__ import annotations

import click

from ._bench_options import json_option, measured, repeat_option, report_option, trace_option, without_values
from ._common import storage_option, storage_options

__all__ = ["source"]


@click.command()
@click.argument("url", required=False)
@storage_option
@repeat_option(6, "Rounds; each runs every client.")
@click.option(
    "--range-mib", type=click.IntRange(1, 256), default=8, show_default=True, help="MiB of one request of the others."
)
@click.option(
    "--connections", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests in flight of the others."
)
@click.option("--no-busy", is_flag=True, help="Leave out the runs beside a main thread that is busy with Python.")
@click.option("--no-peers", is_flag=True, help="Leave out other people's clients.")
@click.option("--thorough", is_flag=True, help="Others beside a busy main thread, too; some then take a minute each.")
@json_option
@trace_option
@report_option
def source(
    url: str | None,
    *,
    given: tuple[str, ...],
    repeat: int,
    range_mib: int,
    connections: int,
    no_busy: bool,
    no_peers: bool,
    thorough: bool,
    json_path: str | None,
    trace_path: str | None,
    report_path: str | None,
) -> None:
    """Measure how fast weights come from an object store.

    URL is a checkpoint; without it one is made and served on this machine by nginx. Beside streamload run raw sockets,
    which are the ceiling, and the clients that are installed, each in a process of its own.

    Example: streamload bench source s3://bucket/model --storage-option endpoint_url=http://127.0.0.1:9000
    """
    from ..bench import SourceSettings, run_source_bench

    settings = SourceSettings(
        url=url,
        storage_options=storage_options(given) or {},
        repeat=repeat,
        range_bytes=range_mib << 20,
        connections=connections,
        busy=not no_busy,
        peers=not no_peers,
        thorough=thorough,
        command=without_values(),
    )
    measured(
        lambda progress: run_source_bench(settings, progress), json_path, trace_path=trace_path, report_path=report_path
    )
