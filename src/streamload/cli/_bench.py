"""`streamload bench`: the group, and `streamload bench engine`.

Part of `cli`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ._bench_agree import agree
from ._bench_compare import compare, schema
from ._bench_from_pretrained import from_pretrained
from ._bench_machine import link, storage
from ._bench_options import (
    cold_option,
    device_option,
    json_option,
    measured,
    repeat_option,
    report_option,
    trace_option,
)
from ._bench_overlap import overlap
from ._bench_source import source
from ._common import bad_values_refused, command_line

if TYPE_CHECKING:
    from ..bench import BenchProgress, EngineBench, ManyTensorsBench

__all__ = ["bench"]


@click.group(commands=[link, storage, compare, overlap, from_pretrained, source, schema, agree])
def bench() -> None:
    """Measure, against a ceiling and peers measured in the same process."""


@bench.command()
@click.argument("path", required=False)
@device_option()
@repeat_option(8)
@json_option
@trace_option
@report_option
@cold_option("Drop the files from the page cache before each run.")
@click.option("--tensors", type=click.IntRange(1), help="Make a checkpoint of that many tensors (without PATH).")
@click.option("--many-tensors", is_flag=True, help="Compare the same bytes in 300 tensors and in 20,000.")
def engine(
    path: str | None,
    *,
    device: str,
    repeat: int,
    json_path: str | None,
    trace_path: str | None,
    report_path: str | None,
    cold: bool,
    tensors: int | None,
    many_tensors: bool,
) -> None:
    """Measure how fast a checkpoint reaches memory: the ceiling, streamload, and its peers.

    Without PATH a checkpoint of about 1 GB is made in a temporary directory.

    Example: streamload bench engine models/llama-3-8b --cold --json engine.json
    """
    from ..bench import PeerSettings, run_engine_bench, run_many_tensors_bench

    if path is not None and (tensors is not None or many_tensors):
        raise click.UsageError("--tensors and --many-tensors make their own checkpoint; leave out PATH")
    if many_tensors and (cold or tensors is not None):
        raise click.UsageError("--many-tensors runs warm, with tensors of its own; leave out --cold and --tensors")

    if many_tensors and trace_path is not None:
        raise click.UsageError("--many-tensors has no timelines; leave out --trace")

    def run(progress: BenchProgress) -> EngineBench | ManyTensorsBench:
        if many_tensors:
            return run_many_tensors_bench(device=device, repeat=repeat, command=command_line(), progress=progress)
        return run_engine_bench(
            path,
            device=device,
            repeat=repeat,
            cold=cold,
            tensors=tensors,
            peer_settings=PeerSettings.from_env(os.environ),
            command=command_line(),
            progress=progress,
        )

    with bad_values_refused():
        measured(run, json_path, trace_path=trace_path, report_path=report_path)
