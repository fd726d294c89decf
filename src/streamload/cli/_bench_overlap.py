"""`streamload bench overlap`.

Part of `cli`.
"""

from __future__ import annotations

import click

from ._bench_options import device_option, json_option, measured, repeat_option, report_option, trace_option
from ._common import command_line

__all__ = ["overlap"]


@click.command()
@click.argument("path", required=False)
@device_option('"cpu", over a simulated link, or "cuda:0".')
@repeat_option(3, "Rounds; each runs every pass.")
@click.option("--tokens", help="Lengths of the prompts, such as 128,2048,8192.  [default: by device]")
@click.option("--link", type=click.FloatRange(0, min_open=True), help="Rate of the simulated link, in GB/s.")
@click.option("--real-compute", is_flag=True, help="Without a GPU: compute all of a prompt, beside the copies.")
@json_option
@trace_option
@report_option
@click.option(
    "--thorough", is_flag=True, help="Measure all of it, in about six minutes: more prompts, models and pairs."
)
def overlap(
    path: str | None,
    *,
    device: str,
    repeat: int,
    tokens: str | None,
    link: float | None,
    real_compute: bool,
    json_path: str | None,
    trace_path: str | None,
    report_path: str | None,
    thorough: bool,
) -> None:
    """Measure how much of moving weights is hidden behind computing.

    Prints the time to the first token over max(X, C): X moves all weights at the rate measured now, C is the pass with
    everything resident. PATH is the directory of a transformers model; without it a Llama is made in a temporary
    directory. What a thorough run would measure beside this is said below the table.

    Example: streamload bench overlap --thorough --json overlap.json
    """
    from ..bench import OverlapSettings, run_overlap_bench

    settings = OverlapSettings(
        path=path,
        device=device,
        repeat=repeat,
        tokens=_lengths(tokens),
        link_bytes_per_second=None if link is None else link * 1e9,
        real_compute=real_compute,
        thorough=thorough,
        command=command_line(),
    )
    measured(
        lambda progress: run_overlap_bench(settings, progress),
        json_path,
        trace_path=trace_path,
        report_path=report_path,
    )


def _lengths(text: str | None) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise click.UsageError(f"--tokens {text}: whole numbers with commas between are wanted") from error
    if any(length < 1 for length in lengths):
        raise click.UsageError(f"--tokens {text}: a prompt has at least one token")
    return lengths
