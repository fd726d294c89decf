"""GPUs: driver, link, free memory, torch, how CUDA loads its kernels.

Part of `_doctor`. NVIDIA's only. What `nvidia-smi` and the native core say of a device is gathered in `gpu_facts`; the
link is read from `sys`.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._units import say_bytes, say_rate
from ._finding import Finding
from ._system import read_line

if TYPE_CHECKING:
    from ._environment import Environment

__all__ = [
    "Gpu",
    "GpuFacts",
    "PciGpu",
    "TorchFacts",
    "device_memory",
    "driver",
    "gpu_facts",
    "module_loading",
    "pci_gpus",
    "pcie",
    "torch_facts",
    "torch_fits",
]

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = ("0x0300", "0x0302")  # classes of VGA and 3D controllers (pci.ids)
_GENERATIONS: Final = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}  # by GT/s, a lane
_BUSY_PART: Final = 0.1  # of a device's memory: more than a bare driver takes


@dataclass(frozen=True, slots=True)
class PciGpu:
    """Hold a GPU as the PCI bus shows it.

    Attributes:
        address: Such as "0000:3b:00.0".
        numa_node: -1 where the system does not say.
        speed: Rate of a lane now, in GT/s; 0 where unknown. An idle GPU slows its link.
        width: Lanes in use; 0 where unknown.
        most_speed: The most that the GPU and the port above it can do.
        most_width: Likewise, of the GPU alone.
    """

    address: str
    numa_node: int
    speed: float
    width: int
    most_speed: float
    most_width: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """Hold what nvidia-smi says of a GPU; bytes of its memory."""

    name: str
    address: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """Hold what is known of GPUs and driver.

    Attributes:
        gpus: As nvidia-smi lists them; none where there is no nvidia-smi.
        driver: The driver's version; "" where unknown.
        name: Of the first device, as the driver gives it to the engine; "" where it gives none.
        cuda: The CUDA version that the driver offers, 1000 × major + 10 × minor; 0 where unknown.
        refusal: Why the engine cannot use a device; "" where it can.
    """

    gpus: tuple[Gpu, ...]
    driver: str
    name: str
    cuda: int
    refusal: str


@dataclass(frozen=True, slots=True)
class TorchFacts:
    """Hold torch's version and the CUDA it is built for, "" where it is built without; read without importing it."""

    version: str
    cuda: str


def pci_gpus(root: Path) -> list[PciGpu]:
    """List NVIDIA's GPUs on the PCI bus; a virtual machine or sandbox may hide it."""
    found = []
    for place in sorted((root / "sys/bus/pci/devices").glob("*")):
        if read_line(place / "vendor") != _NVIDIA or not read_line(place / "class").startswith(_DISPLAY):
            continue
        # The port above is the directory around the device's own.
        above = _number(read_line(place.resolve().parent / "max_link_speed"))
        most = _number(read_line(place / "max_link_speed"))
        found.append(
            PciGpu(
                address=place.name,
                numa_node=int(_number(read_line(place / "numa_node") or "-1")),
                speed=_number(read_line(place / "current_link_speed")),
                width=int(_number(read_line(place / "current_link_width"))),
                most_speed=min(most, above or most),
                most_width=int(_number(read_line(place / "max_link_width"))),
            )
        )
    return found


def _number(text: str) -> float:
    """Return the number that a text begins with, such as 16 of "16.0 GT/s PCIe"; 0 where it does not."""
    number = re.match(r"-?\d+(\.\d+)?", text)
    return float(number[0]) if number else 0.0


def gpu_facts(root: Path, *, smi: str = "nvidia-smi", library: str = "libcuda.so.1") -> GpuFacts:
    """Ask nvidia-smi and, through the native core, the driver. Takes a second or two where there is a GPU.

    Args:
        root: Where `proc` is.
        smi: The program.
        library: What the driver is loaded as.
    """
    columns = "name,pci.bus_id,memory.free,memory.total,driver_version"
    command = [smi, f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        text = ""
    rows = [row for line in text.splitlines() if len(row := [cell.strip() for cell in line.split(",")]) == 5]
    gpus = tuple(Gpu(row[0], row[1], int(_number(row[2])) << 20, int(_number(row[3])) << 20) for row in rows)
    module = re.search(r"Module.*?(\d+\.[\d.]+)", read_line(root / "proc/driver/nvidia/version"))
    version = rows[0][4] if rows else module[1] if module else ""
    try:
        from .. import _native
    except ImportError:
        return GpuFacts(gpus, version, "", 0, "the native core is not there")
    try:
        properties = _native.CudaDevice(0, library=library).properties
    except _native.NativeError as error:
        return GpuFacts(gpus, version, "", 0, str(error))
    return GpuFacts(gpus, version, str(properties["name"]), int(str(properties["driver_version"])), "")


def driver(facts: GpuFacts, on_bus: list[PciGpu]) -> Finding:
    """Say whether there is a GPU that the engine can use."""
    why = "weights go to a GPU through its driver; without one they are loaded to the CPU only"
    name = "GPU"
    if facts.name:
        offered = f"{facts.cuda // 1000}.{facts.cuda % 1000 // 10}"
        count = max(1, len(facts.gpus) or len(on_bus))
        named = f"{count} x {facts.name}" if count > 1 else facts.name
        found = f"{named}, driver {facts.driver or '(unknown)'}, CUDA {offered}"
        return Finding(name, "ok", found, why)
    if facts.gpus or facts.driver or on_bus:
        named = facts.gpus[0].name if facts.gpus else "a GPU of NVIDIA's is there"
        fix = "install NVIDIA's driver; a container: docker --gpus all, with NVIDIA's container toolkit"
        return Finding(name, "wrong", f"{named}, but no device can be opened: {facts.refusal}", why, fix)
    return Finding(name, "unknown", "no GPU of NVIDIA's here", why, "in a container: docker --gpus all")


def pcie(gpu: PciGpu) -> Finding:
    """Compare the link of a GPU with what it could be."""
    why = "all weights pass this link: it bounds the rate of a load from memory"
    name = f"PCIe {gpu.address}"
    if not gpu.speed or not gpu.width:
        return Finding(name, "unknown", "the system does not show its link", why)
    found = f"generation {_GENERATIONS.get(gpu.speed, '?')}, x{gpu.width} ({_rate(gpu.speed, gpu.width)})"
    if gpu.width < gpu.most_width:
        fix = "a slot with all lanes, or one not shared with other cards: see the mainboard's manual; reseat the card"
        return Finding(name, "slow", f"{found}, of {gpu.most_width} lanes", why, fix)
    if gpu.speed < gpu.most_speed:
        found += f", could be generation {_GENERATIONS.get(gpu.most_speed, '?')} ({_rate(gpu.most_speed, gpu.width)})"
        fix = "an idle GPU slows its link: look again during a load; if it stays, the BIOS's setting of the slot"
        return Finding(name, "unknown", found, why, fix)
    return Finding(name, "ok", found, why)


def _rate(speed: float, width: int) -> str:
    """Say what a link can carry one way, without its line code: 8b/10b up to generation 2, then 128b/130b."""
    return say_rate(speed * 1e9 / 8 * width * (0.8 if speed < 8 else 128 / 130))


def device_memory(gpu: Gpu, needed_bytes: int) -> Finding:
    """Compare the free memory of a device with what is to be loaded.

    Args:
        gpu: The device.
        needed_bytes: Bytes of the checkpoint; 0 if none is named.
    """
    why = "weights that do not fit pass through slots in every forward, at the rate of the link"
    name = f"memory of {gpu.address}"
    found = f"{say_bytes(gpu.free_bytes)} of {say_bytes(gpu.total_bytes)} free"
    if needed_bytes > gpu.free_bytes:
        fix = f"end what else uses the GPU (nvidia-smi), or StreamOptions(device_memory={int(gpu.free_bytes * 0.9)})"
        return Finding(name, "slow", f"{found}; the weights take {say_bytes(needed_bytes)}", why, fix)
    if not needed_bytes and gpu.free_bytes < (1 - _BUSY_PART) * gpu.total_bytes:
        return Finding(name, "slow", f"{found}; others use the rest", why, "nvidia-smi lists who does; end them")
    return Finding(name, "ok", found, why)


def torch_facts() -> TorchFacts | None:
    """Read what torch is installed, without importing it; None where there is none."""
    try:
        version = metadata.version("torch")
        spec = find_spec("torch")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    said = read_line(Path(spec.origin).with_name("version.py"))
    cuda = re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)", said, re.MULTILINE)
    return TorchFacts(version, cuda[1] if cuda else "")


def torch_fits(torch: TorchFacts | None, facts: GpuFacts) -> Finding:
    """Say whether torch is there, and whether driver and torch go together."""
    why = "streamload.torch needs it; built without CUDA, or for a newer one than the driver's, it cannot use the GPU"
    name = "torch"
    if torch is None:
        found = "not installed: inspect, plan, pull and verify work without"
        return Finding(name, "unknown", found, why, "pip install 'streamload[torch]'")
    found = f"{torch.version}, {f'CUDA {torch.cuda}' if torch.cuda else 'without CUDA'}"
    if not facts.name:
        return Finding(name, "ok", found, why)
    if not torch.cuda:
        return Finding(name, "wrong", f"{found}, beside a GPU", why, "install a torch built for CUDA (pytorch.org)")
    # Within one major version newer libraries run on older drivers (CUDA's "minor version compatibility").
    if facts.cuda and int(torch.cuda.partition(".")[0]) > facts.cuda // 1000:
        fix = f"a newer driver, or a torch built for CUDA {facts.cuda // 1000}"
        return Finding(name, "wrong", f"{found}; the driver offers CUDA {facts.cuda // 1000} at most", why, fix)
    return Finding(name, "ok", found, why)


def module_loading(environment: Environment) -> Finding:
    """Look at CUDA_MODULE_LOADING; torch sets it to LAZY where it is not set."""
    why = "EAGER loads every kernel of every library before the first token; LAZY those that are used"
    name = "CUDA_MODULE_LOADING"
    chosen = environment.module_loading
    if chosen.upper() in ("", "DEFAULT", "LAZY"):
        return Finding(name, "ok", chosen or "not set, which is LAZY", why)
    if chosen.upper() == "EAGER":
        return Finding(name, "slow", chosen, why, "unset CUDA_MODULE_LOADING")
    return Finding(name, "unknown", f"{chosen!r} is no value of it", why, "unset CUDA_MODULE_LOADING")
