"""How fast a device takes what is not one large pinned range: rectangles, small blocks, a small ring, a busy GPU.

Every rate is written beside its ratio to the ceiling: pinned copies of one large range, measured in this process. A
phase of `make gpu-check`; by itself:

    python3 benchmarks/gpu_copies.py --device cuda:0 --json copies.json

`--device host` measures the host device. Its figures mean nothing; the tests run it to prove the program right.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import sys
import threading
import time
from array import array
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from streamload import _native
from streamload._engine import open_device
from streamload._machine import machine_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROW_BYTES = (2 * KIB, 4 * KIB, 8 * KIB)
BLOCK_BYTES = (4 * KIB, 16 * KIB, 64 * KIB)
ROWS_APART = 4  # a rectangle's source rows, in rows: a quarter of each, as one of four ranks takes
HUGE_PAGE = 2 * MIB


@dataclass(frozen=True)
class Sizes:
    """How much is copied, in bytes, and how often."""

    region_bytes: int = GIB
    ring_bytes: int = 16 * MIB
    chunk_bytes: int = 4 * MIB
    most_blocks: int = 4096
    repeats: int = 5
    events: int = 1000
    matrix_rows: int = 8192  # and columns
    matmuls: int = 200  # whose rate is that of computing alone


class HostMemory:
    """Touched host memory on huge or small pages, pinned while `pinned` lasts."""

    def __init__(self, nbytes: int, *, huge: bool = True) -> None:
        self.nbytes = nbytes
        self._map = mmap.mmap(-1, nbytes + HUGE_PAGE)
        self._map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = (start + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
        self.write()

    def write(self) -> None:
        """Write every byte, as a reader would before a copy."""
        ctypes.memset(self.address, 1, self.nbytes)

    @contextmanager
    def pinned(self, device: _native.Device) -> Iterator[float]:
        """Pin the memory; gives the seconds that pinning took."""
        began = time.perf_counter()
        device.pin(self.address, self.nbytes)
        seconds = time.perf_counter() - began
        try:
            yield seconds
        finally:
            device.unpin(self.address, self.nbytes)


class Copies:
    """Measure copies from one pinned region of the host to one of the device, against the ceiling."""

    def __init__(self, device: _native.Device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        seconds = device.measure_link(sizes.region_bytes, sizes.repeats)
        self.ceiling = sizes.region_bytes / median(seconds)

    def rate(self, blocks: array[int], *, blocks_per_call: int = 0) -> dict[str, float]:
        """Return the median rate of copying the blocks, and its ratio to the ceiling; the first round is warmth."""
        nbytes = sum(row_bytes * rows for row_bytes, rows in zip(blocks[4::6], blocks[5::6], strict=True))
        seconds = self.device.time_copies(blocks, blocks_per_call, self.sizes.repeats + 1)[1:]
        return self.against_ceiling(nbytes / median(seconds))

    def against_ceiling(self, bytes_per_second: float) -> dict[str, float]:
        """Return a rate and its ratio."""
        return {"bytes_per_second": bytes_per_second, "ratio": bytes_per_second / self.ceiling}

    def rectangles(self, source: int, target: int) -> dict[str, object]:
        """Return the rate of one rectangle for each length of row, packed on the device."""
        found: dict[str, object] = {}
        for row_bytes in ROW_BYTES:
            rows = self.sizes.region_bytes // (row_bytes * ROWS_APART)
            block = array("Q", [target, row_bytes, source, row_bytes * ROWS_APART, row_bytes, rows])
            found[str(row_bytes)] = self.rate(block)
        return found

    def small_blocks(self, source: int, target: int) -> dict[str, object]:
        """Return the rate of blocks of each size, handed over together and one by one."""
        found: dict[str, object] = {}
        for nbytes in BLOCK_BYTES:
            count = min(self.sizes.most_blocks, self.sizes.region_bytes // nbytes)
            blocks = plain_blocks(source, target, nbytes, count, self.sizes.region_bytes)
            batched, looped = self.rate(blocks), self.rate(blocks, blocks_per_call=1)
            speedup = batched["bytes_per_second"] / looped["bytes_per_second"]
            found[str(nbytes)] = {"batched": batched, "looped": looped, "batched_to_looped": speedup}
        return found

    def ring_and_region(self, memory: HostMemory, target: int) -> dict[str, object]:
        """Return the rate of chunks that come from a ring as large as a processor's cache, and from all of a region."""
        chunk, count = self.sizes.chunk_bytes, self.sizes.region_bytes // self.sizes.chunk_bytes
        found: dict[str, object] = {}
        for name, nbytes in (("region", self.sizes.region_bytes), ("ring", self.sizes.ring_bytes)):
            memory.write()
            ctypes.memset(memory.address, 2, nbytes)  # the last written is what a cache holds
            found[name] = self.rate(plain_blocks(memory.address, target, chunk, count, nbytes))
        return found

    def registration(self) -> dict[str, object]:
        """Return what pinning fresh, touched memory costs on huge pages and on small ones."""
        found: dict[str, object] = {}
        for name, huge in (("huge_pages", True), ("small_pages", False)):
            taken = []
            for _ in range(self.sizes.repeats):
                with HostMemory(self.sizes.region_bytes, huge=huge).pinned(self.device) as seconds:
                    taken.append(seconds)
            seconds = median(taken)
            rate = self.against_ceiling(self.sizes.region_bytes / seconds)
            found[name] = {"seconds_per_gib": seconds * GIB / self.sizes.region_bytes, **rate}
        return found

    def event(self) -> dict[str, float]:
        """Return what recording an event and waiting for it costs, and the bytes that cross the link meanwhile."""
        seconds = median(self.device.time_copies(array("Q"), 0, self.sizes.events))
        return {"seconds": seconds, "bytes_at_ceiling": seconds * self.ceiling}

    def while_computing(self, source: int, target: int, matmuls: Matmuls) -> dict[str, object]:
        """Return the rate of large copies while matrices are multiplied, and of the multiplying meanwhile."""
        count = self.sizes.region_bytes // self.sizes.chunk_bytes
        blocks = plain_blocks(source, target, self.sizes.chunk_bytes, count, self.sizes.region_bytes)
        with matmuls:
            alone = matmuls.rate(lambda: matmuls.wait_for(self.sizes.matmuls))
            copied: dict[str, float] = {}
            beside = matmuls.rate(lambda: copied.update(self.rate(blocks)))
        return {**copied, "matmuls_per_second": beside, "matmuls_ratio": beside / alone}

    def everything(self, matmuls: Matmuls | None) -> dict[str, object]:
        """Run all of them; without `matmuls`, all but the one beside them."""
        memory = HostMemory(self.sizes.region_bytes)
        target = self.device.allocate(self.sizes.region_bytes)
        try:
            with memory.pinned(self.device):
                found = {
                    "rectangles_by_row_bytes": self.rectangles(memory.address, target),
                    "blocks_by_bytes": self.small_blocks(memory.address, target),
                    "chunks_from": self.ring_and_region(memory, target),
                    "event": self.event(),
                }
                if matmuls is not None:
                    found["while_computing"] = self.while_computing(memory.address, target, matmuls)
        finally:
            self.device.deallocate(target, self.sizes.region_bytes)
        return {**found, "registration": self.registration()}


class Matmuls:
    """Multiply matrices on torch's device, one always queued behind the one that runs, on a thread of its own."""

    def __init__(self, torch_device: str, size: int) -> None:
        import torch

        self._torch, self._device = torch, torch.device(torch_device)
        self._matrix = torch.ones(size, size, dtype=torch.bfloat16, device=self._device)
        self._changed = threading.Condition()  # guards the two below
        self._done, self._stopped = 0, False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Matmuls:
        self._thread.start()
        self.wait_for(2)  # the first ones also set things up
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(stopped=True)
        self._thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until that many more are done, or the thread has ended."""
        with self._changed:
            last = self._done + count
            self._changed.wait_for(lambda: self._done >= last or self._stopped)

    def rate(self, work: Callable[[], object]) -> float:
        """Return the multiplications a second while `work` runs."""
        before, began = self._done, time.perf_counter()
        work()
        return (self._done - before) / (time.perf_counter() - began)

    def _tell(self, *, done: int = 0, stopped: bool = False) -> None:
        with self._changed:
            self._done += done
            self._stopped = self._stopped or stopped
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            if self._device.type == "cuda":
                with self._torch.cuda.stream(self._torch.cuda.Stream(self._device)):
                    self._multiply()
            else:
                self._multiply()
        finally:
            self._tell(stopped=True)

    def _multiply(self) -> None:
        out = self._torch.empty_like(self._matrix)
        before_last = None
        while not self._stopped:
            self._torch.matmul(self._matrix, self._matrix, out=out)
            if self._device.type == "cuda":
                last = self._torch.cuda.Event()
                last.record()
                if before_last is not None:
                    before_last.synchronize()
                before_last = last
            self._tell(done=1)


def plain_blocks(source: int, target: int, nbytes: int, count: int, source_bytes: int) -> array[int]:
    """Return `count` blocks side by side on the device; the source begins anew after `source_bytes`."""
    per_turn = source_bytes // nbytes
    blocks = array("Q")
    for i in range(count):
        blocks.extend((target + i * nbytes, 0, source + i % per_turn * nbytes, 0, nbytes, 1))
    return blocks


def measure(device: _native.Device, sizes: Sizes, matmuls: Matmuls | None) -> dict[str, object]:
    """Return the whole result."""
    copies = Copies(device, sizes)
    figures = copies.everything(matmuls)
    return {
        "kind": "copies",
        "device": device.name,
        "nbytes": sizes.region_bytes,
        "repeats": sizes.repeats,
        "ceiling_bytes_per_second": copies.ceiling,
        "figures": figures,
        "machine": machine_facts(native_build=_native.build_type).as_dict(),
    }


def main() -> int:
    """Measure one device and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or host")
    parser.add_argument("--region-mib", type=int, default=Sizes.region_bytes // MIB, help="the large range")
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    arguments = parser.parse_args()

    sizes = replace(Sizes(), region_bytes=arguments.region_mib * MIB)
    on_host = arguments.device == "host"
    device = _native.HostDevice() if on_host else open_device(arguments.device)
    result = measure(device, sizes, None if on_host else Matmuls(arguments.device, sizes.matrix_rows))
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
