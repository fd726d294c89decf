"""How fast bytes travel: from storage into staging buffers, and out of them over the link.

Part of `_schedule`; pure. Two servers in a row that each take the reads of a plan in their order, and as many buffers
between them as staging memory has: a read begins when the one before has ended and a buffer is free, its copy when the
copy before has ended and its bytes are there. What several threads or drives read at the same time is one server of
their rate together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._plan import LoadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Hold the rates, the room and the latencies on the way from storage to the device.

    Attributes:
        link_bytes_per_second: Of copies out of staging buffers, or other page-locked memory.
        storage_bytes_per_second: Of reads into staging buffers. Infinite: nothing to read.
        staging_bytes: Of all staging buffers.
        chunk_bytes: Of one of them; no read is longer.
        load_seconds: From the call to the first read.
        group_seconds: From the last byte of a group to the start of the work that waited for it.

    Raises:
        ValueError: A rate is not above 0, a size below 1, a latency below 0, or there is room for no buffer.
    """

    link_bytes_per_second: float
    storage_bytes_per_second: float = inf
    staging_bytes: int
    chunk_bytes: int
    load_seconds: float = 0.0
    group_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (self.link_bytes_per_second > 0 and self.storage_bytes_per_second > 0):
            raise ValueError(
                f"rates must be above 0, got {self.link_bytes_per_second} and {self.storage_bytes_per_second} bytes/s"
            )
        if not 1 <= self.chunk_bytes <= self.staging_bytes:
            raise ValueError(
                f"expected 1 <= chunk_bytes <= staging_bytes, got {self.chunk_bytes} and {self.staging_bytes}"
            )
        if not (self.load_seconds >= 0 and self.group_seconds >= 0):
            raise ValueError(f"latencies must not be below 0, got {self.load_seconds} s and {self.group_seconds} s")

    @property
    def buffers(self) -> int:
        """Number of staging buffers."""
        return self.staging_bytes // self.chunk_bytes


def reads_by_group(plan: LoadPlan) -> list[list[int]]:
    """Return the lengths in bytes of the reads of each group of a plan, in the order they are issued."""
    groups: list[list[int]] = [[] for _ in range(plan.group_count)]
    for nbytes, group in zip(plan.reads[2::5], plan.reads[3::5], strict=True):
        groups[group].append(nbytes)
    return groups


@dataclass(frozen=True, slots=True)
class Fill:
    """Say when a run of reads has been read and copied, given when its two sides may begin.

    Both ends are the later of two times: counted from when reading may begin, and from when copying may.

    Attributes:
        nbytes: Of the run.
        read_from_reading: When its last read has ended, counted from when reading may begin.
        read_from_copying: The same, from when copying may begin: what found no buffer has to wait for copies.
        copied_from_reading: When its last copy has ended, counted from when reading may begin.
        copied_from_copying: The same, from when copying may begin, all buffers being full by then.
        freed_before: How long before its last copy ends the next run finds its first free buffer.
    """

    nbytes: int
    read_from_reading: float
    read_from_copying: float
    copied_from_reading: float
    copied_from_copying: float
    freed_before: float


def measure_fill(reads: Sequence[int], pipeline: Pipeline) -> Fill:
    """Run the reads through the pipeline alone, once with nothing staged and once with all buffers full."""
    read, copied = _run(reads, pipeline, staged=0)
    late_read, late_copied = _run(reads, pipeline, staged=pipeline.buffers)
    later = sum(reads[len(reads) - pipeline.buffers + 1 :]) if len(reads) >= pipeline.buffers else inf
    return Fill(sum(reads), read, late_read, copied, late_copied, later / pipeline.link_bytes_per_second)


def host_fill(nbytes: int, pipeline: Pipeline) -> Fill:
    """Return the fill of bytes that lie in page-locked memory already."""
    return Fill(nbytes, -inf, -inf, -inf, nbytes / pipeline.link_bytes_per_second, inf)


def _run(reads: Sequence[int], pipeline: Pipeline, *, staged: int) -> tuple[float, float]:
    """Return when the last read that is not staged, and the last copy have ended."""
    per_read, per_copy = 1 / pipeline.storage_bytes_per_second, 1 / pipeline.link_bytes_per_second
    freed = [0.0] * min(pipeline.buffers, max(len(reads), 1))
    read = -inf if staged >= len(reads) else 0.0
    copied = 0.0
    for number, nbytes in enumerate(reads):
        at = number % len(freed)
        if number >= staged:
            read = max(read, freed[at]) + nbytes * per_read
            copied = max(copied, read)
        copied += nbytes * per_copy
        freed[at] = copied
    return read, copied
