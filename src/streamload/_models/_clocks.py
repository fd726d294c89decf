"""Take marks in time where the computing happens.

Part of `_models`; needs torch.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch

__all__ = ["Clock", "open_clock"]


class Clock(Protocol):
    """Takes marks, and tells when the computing reached them."""

    def mark(self) -> None:
        """Set a mark behind the computing that was queued so far; never blocks."""

    def seconds(self) -> list[float]:
        """Return when each mark was reached, on `time.perf_counter`'s clock; waits until all were."""


def open_clock(device: str) -> Clock:
    """Return a clock for "cpu", or for the current stream of a CUDA device."""
    return _HostClock() if device == "cpu" else _CudaClock(device)


class _HostClock:
    """Take marks on the host, where the computing is done by the marking thread."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return self._marks


class _CudaClock:
    """Take marks on the current stream, where the computing is queued long before it is done."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._marks: list[torch.cuda.Event] = []
        self._zero = _event()
        self._zero.record(torch.cuda.current_stream(device))
        self._zero.synchronize()
        self._zero_seconds = time.perf_counter()

    def mark(self) -> None:
        event = _event()
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def seconds(self) -> list[float]:
        torch.cuda.synchronize(self._device)
        return [self._zero_seconds + self._zero.elapsed_time(event) / 1e3 for event in self._marks]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no types for it
