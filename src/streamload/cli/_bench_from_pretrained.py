"""`streamload bench from_pretrained`.

Part of `cli`.
"""

from __future__ import annotations

import click

from ._bench_options import device_option, json_option, measured, repeat_option, report_option, trace_option
from ._common import command_line

__all__ = ["from_pretrained"]


@click.command(name="from_pretrained")
@click.argument("path", required=False)
@device_option()
@repeat_option(5, "Pairs of each figure.")
@json_option
@trace_option
@report_option
def from_pretrained(
    path: str | None,
    *,
    device: str,
    repeat: int,
    json_path: str | None,
    trace_path: str | None,
    report_path: str | None,
) -> None:
    """Measure transformers' from_pretrained, stock and streamed.

    Prints the time from the call until it returns, until the first token, and until all is resident, and the peak
    memory, each load in a process of its own. PATH is the directory of a causal language model; without it a Llama of
    about 1 GB is made in a temporary directory.

    Example: streamload bench from_pretrained --repeat 5 --json pretrained.json
    """
    from ..bench import PretrainedSettings, run_pretrained_bench

    settings = PretrainedSettings(path=path, device=device, repeat=repeat, command=command_line())
    measured(
        lambda progress: run_pretrained_bench(settings, progress),
        json_path,
        trace_path=trace_path,
        report_path=report_path,
    )
