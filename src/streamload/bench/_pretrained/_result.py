"""What the benchmark of `from_pretrained` found, and what follows from it.

Part of `bench._pretrained`; pure.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from .._overlap._interval import paired_ratios
from .._result import BenchResult

if TYPE_CHECKING:
    from ..._machine import MachineFacts
    from ..._trace import Trace

__all__ = ["FIGURES", "LoadTimes", "PretrainedBench"]

FIGURES = ("return_seconds", "first_token_seconds", "resident_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTimes:
    """Hold the loads of one way, in the order of the pairs; each from the call of `from_pretrained`.

    Attributes:
        return_seconds: Until it returned; of all loads.
        first_token_seconds: Until the first token was on the host, computing at once.
        resident_seconds: Until all was resident, with nothing computed. Stock on the host: until it returned.
        copied_seconds: Until parameters that are mapped files were copied to memory; empty where they are not mapped.
        peak_memory_bytes: Most memory above that before the call, in loads with a first token, pages of mapped files
            counted; empty where unknown.
        private_peak_bytes: The same of one more load, pages of mapped files not counted; None where unknown.
        device_peak_bytes: Most that torch held on the GPU; empty on the host.
    """

    return_seconds: tuple[float, ...]
    first_token_seconds: tuple[float, ...]
    resident_seconds: tuple[float, ...]
    copied_seconds: tuple[float, ...] = ()
    peak_memory_bytes: tuple[int, ...] = ()
    private_peak_bytes: int | None = None
    device_peak_bytes: tuple[int, ...] = ()

    def medians(self) -> dict[str, float | None]:
        """Return the median of each; the private peak is one number."""
        return {
            name: value if not isinstance(value, (list, tuple)) else median(value) if value else None
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedBench(BenchResult):
    """Hold one run of `streamload bench from_pretrained`.

    Attributes:
        model: The model's class.
        dtype: Its weights', as torch says it.
        nbytes: Bytes of the checkpoint's weights.
        tensors: How many it has.
        device: Where they went: "cpu" or "cuda:N".
        tokens: Length of the prompt.
        pairs: How often each way was measured, for each figure.
        cache: State of the page cache: "warm" or "mixed".
        cached: Part of the files that it held before each load; None where unknown.
        output: Logits of both ways: "equal" bit for bit, or "equal to rounding". All weights were equal bit for bit.
        ceiling_seconds: Of each pair: all weights at the rate of plain reads into small buffers, or, on a GPU, at that
            of its link where it is lower.
        stock: transformers' own loads.
        streamed: The same calls in `streamload.transformers.patch()`.
        command: What was typed.
        machine: Where it ran.
        timelines: Of one more first token of each way: stock, then streamed.
    """

    model: str
    dtype: str
    nbytes: int
    tensors: int
    device: str
    tokens: int
    pairs: int
    cache: str
    cached: tuple[float | None, ...]
    output: str
    ceiling_seconds: tuple[float, ...]
    stock: LoadTimes
    streamed: LoadTimes
    command: str
    machine: MachineFacts
    timelines: tuple[Trace, ...] = ()

    def ratios(self) -> dict[str, list[float]]:
        """Return streamed over stock of each pair, by figure; below 1 is faster.

        `resident_to_copied` holds what is resident against mapped files copied to memory, `resident_to_ceiling` against
        the ceiling: there, above 1 is what a load takes longer than its bytes.
        """
        found = {name: paired_ratios(getattr(self.streamed, name), getattr(self.stock, name)) for name in FIGURES}
        if self.stock.copied_seconds:
            found["resident_to_copied"] = paired_ratios(self.streamed.resident_seconds, self.stock.copied_seconds)
        found["resident_to_ceiling"] = paired_ratios(self.streamed.resident_seconds, self.ceiling_seconds)
        return found

    def as_dict(self) -> dict[str, object]:
        """Return everything, as JSON can hold it."""
        ratios = self.ratios()
        return {
            "kind": "bench from_pretrained",
            **asdict(self),
            "timelines": [trace.as_dict() for trace in self.timelines],
            "medians": {"stock": self.stock.medians(), "streamed": self.streamed.medians()},
            "ratios": ratios,
            "median_ratios": {name: median(each) for name, each in ratios.items()},
        }

    def table(self) -> str:
        """Return the result as text."""
        from ._table import pretrained_table

        return pretrained_table(self)
