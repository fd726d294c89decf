"""Devices that plans are made for, and what of their data sheets is there in practice.

Part of `_schedule`; pure data. Nothing in it was measured by streamload. Peaks are those of the vendors' data sheets
and white papers, dense, bf16 with fp32 accumulation, of the SXM form where there are several. What is left of them:

- matrix products reach 0.6 of the peak (an A100 0.64: 200 of 312 Tflop/s), memory 0.86 to 0.9 of its own, as a long
  prefill and a decode at batch 1 do;
- a link copies from page-locked memory at 55 GB/s through PCIe 5.0 x16 (nvbandwidth's published H100 sample has 55.6)
  and 25 GB/s through PCIe 4.0 x16, where 63 and 31.5 are nominal.

Memory is what is printed on the box, in powers of 1000; drivers report some percent more.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_GB = 1e9
_GEN4, _GEN5 = 25 * _GB, 55 * _GB


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Hold what a forecast needs to know of a device.

    Attributes:
        name: As a user writes it.
        title: As its vendor does.
        memory_bytes: Of the device, all of it.
        link_bytes_per_second: From page-locked host memory.
        flops_per_second: Of large bf16 matrix products.
        hbm_bytes_per_second: At which weights are read from the device's own memory.
    """

    name: str
    title: str
    memory_bytes: int
    link_bytes_per_second: float
    flops_per_second: float
    hbm_bytes_per_second: float


def _accelerator(name: str, title: str, gb: int, link: float, tflops: float, hbm_gb: float) -> Accelerator:
    return Accelerator(name, title, gb * 10**9, link, tflops * 1e12, hbm_gb * _GB)


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {
        known.name: known
        for known in (
            # A100 data sheet: 312 Tflop/s, 1555 GB/s (40 GB) and 2039 GB/s (80 GB), PCIe 4.0.
            _accelerator("a100", "NVIDIA A100 40 GB", 40, _GEN4, 200, 1340),
            _accelerator("a100-80g", "NVIDIA A100 80 GB", 80, _GEN4, 200, 1750),
            # A10 data sheet: 125 Tflop/s, 600 GB/s, PCIe 4.0.
            _accelerator("a10", "NVIDIA A10", 24, _GEN4, 75, 520),
            # H100 data sheet: 989 Tflop/s and 3350 GB/s (SXM), 756 Tflop/s and 2000 GB/s (PCIe), PCIe 5.0.
            _accelerator("h100", "NVIDIA H100 SXM", 80, _GEN5, 590, 3000),
            _accelerator("h100-pcie", "NVIDIA H100 PCIe", 80, _GEN5, 450, 1800),
            # H200 data sheet: 989 Tflop/s, 4800 GB/s, PCIe 5.0.
            _accelerator("h200", "NVIDIA H200", 141, _GEN5, 590, 4300),
            # B200 (HGX B200 data sheet, one of eight): 2250 Tflop/s, 180 GB, 8000 GB/s (7700 in HGX), PCIe 5.0.
            _accelerator("b200", "NVIDIA B200", 180, _GEN5, 1350, 6800),
            # L4 data sheet: 242 Tflop/s with sparsity, so 121, 300 GB/s, PCIe 4.0.
            _accelerator("l4", "NVIDIA L4", 24, _GEN4, 73, 260),
            # L40S data sheet: 362 Tflop/s, 864 GB/s, PCIe 4.0.
            _accelerator("l40s", "NVIDIA L40S", 48, _GEN4, 217, 750),
            # GA102 white paper: 71 Tflop/s, 936 GB/s, PCIe 4.0.
            _accelerator("rtx3090", "NVIDIA GeForce RTX 3090", 24, _GEN4, 43, 820),
            # Ada white paper: 165 Tflop/s, 1008 GB/s, PCIe 4.0.
            _accelerator("rtx4090", "NVIDIA GeForce RTX 4090", 24, _GEN4, 99, 880),
            # RTX Blackwell white paper: 210 Tflop/s, 1792 GB/s, PCIe 5.0; 51 GB/s reached (kekzl/imp#1377).
            _accelerator("rtx5090", "NVIDIA GeForce RTX 5090", 32, 51 * _GB, 126, 1550),
        )
    }
)
"""Devices by name."""

STORAGE_RATES: Mapping[str, float] = MappingProxyType(
    {
        "page-cache": 80 * _GB,  # eight reading threads, of which one copies 10 to 18 GB/s
        "nvme": 7 * _GB,  # one PCIe 4.0 drive, reading in order
    }
)
"""Bytes per second at which well-known kinds of storage are read into staging buffers."""
