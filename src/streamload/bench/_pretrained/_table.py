"""The result of the benchmark of `from_pretrained` as text, within 100 columns.

Part of `bench._pretrained`; pure.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from ..._units import say_bytes, say_count, say_rate, say_seconds
from .._figures import machine_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._result import PretrainedBench

__all__ = ["pretrained_table"]

_NAME, _CELL = 40, 12


def pretrained_table(bench: PretrainedBench) -> str:
    """Return a benchmark as text."""
    return "\n".join([*_heading(bench), "", *_times(bench), *_memory(bench)])


def _heading(bench: PretrainedBench) -> Iterator[str]:
    yield (
        f"{bench.model}: {say_bytes(bench.nbytes)} in {say_count(bench.tensors, 'tensor')} of {bench.dtype} to "
        f"{bench.device}, page cache {bench.cache}"
    )
    yield (
        f"{say_count(bench.pairs, 'pair')} of processes, stock and streamed by turns; a prompt of "
        f"{say_count(bench.tokens, 'token')}"
    )
    yield machine_line(bench.machine)
    yield f"weights of both ways were equal bit for bit; their logits were {bench.output}"


def _times(bench: PretrainedBench) -> Iterator[str]:
    yield (
        f"{'from the call of from_pretrained':<{_NAME}}"
        + "".join(f"{name:>{_CELL}}" for name in ("stock", "streamed", "ratio"))
        + "  of pairs"
    )
    stock, streamed, ratios = bench.stock.medians(), bench.streamed.medians(), bench.ratios()
    mapped = bool(bench.stock.copied_seconds)
    rows = [
        ("until it returns", "return_seconds", "return_seconds", "return_seconds"),
        ("until the first token", "first_token_seconds", "first_token_seconds", "first_token_seconds"),
        (f"until all is resident{' (stock: mapped)' if mapped else ''}", *["resident_seconds"] * 3),
    ]
    if mapped:
        rows.append(
            ("until all is in memory (stock: copied)", "copied_seconds", "resident_seconds", "resident_to_copied")
        )
    for name, theirs, ours, ratio in rows:
        each = ratios[ratio]
        cells = (say_seconds(stock[theirs] or 0.0), say_seconds(streamed[ours] or 0.0), f"{median(each):.3f}")
        yield (
            f"{name:<{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells) + f"  {min(each):.3f} to {max(each):.3f}"
        )
    ceiling, to_ceiling = median(bench.ceiling_seconds), ratios["resident_to_ceiling"]
    yield (
        f"{'the ceiling: plain reads of all weights':<{_NAME}}{'':>{_CELL}}{say_seconds(ceiling):>{_CELL}}"
        f"{median(to_ceiling):>{_CELL}.3f}  {min(to_ceiling):.3f} to {max(to_ceiling):.3f}"
    )
    rate = say_rate(bench.nbytes / ceiling)
    yield f"ratio: streamed over stock; in the last row all resident over plain reads, {rate}"
    if mapped:
        yield "stock's parameters are views of mapped files: when it returns, their pages are still to be touched"


def _memory(bench: PretrainedBench) -> Iterator[str]:
    stock, streamed = bench.stock.medians(), bench.streamed.medians()
    rows = [
        ("peak memory, mapped files counted", "peak_memory_bytes"),
        ("peak memory, mapped files not counted", "private_peak_bytes"),
        ("peak memory on the GPU", "device_peak_bytes"),
    ]
    yield ""
    for name, field in rows:
        pair = stock[field], streamed[field]
        if pair != (None, None):
            cells = ["-" if value is None else say_bytes(value) for value in pair]
            yield f"{name:<{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
