"""What `doctor` finds of GPUs, in made-up trees of proc and sys and beside a made-up nvidia-smi."""

from __future__ import annotations

import pytest

from streamload._doctor import Environment, _gpu


def link(speed: str, width: str) -> dict[str, str]:
    return {"current_link_speed": f"{speed} GT/s PCIe\n", "current_link_width": f"{width}\n"}


@pytest.fixture
def bus(tree):
    """Return a function that makes a bus with one GPU below a port, a network card, and gives back the GPUs."""

    def make(port: dict[str, str], **gpu: str) -> list[_gpu.PciGpu]:
        above = "sys/devices/pci0000:00/0000:00:01.0"
        device = {"vendor": "0x10de\n", "class": "0x030200\n", "numa_node": "1\n", **gpu}
        other = {"vendor": "0x15b3\n", "class": "0x020000\n"}
        root = tree(
            {
                **{f"{above}/{name}": text for name, text in port.items()},
                **{f"{above}/0000:01:00.0/{name}": text for name, text in device.items()},
                **{f"sys/bus/pci/devices/0000:02:00.0/{name}": text for name, text in other.items()},
            }
        )
        (root / "sys/bus/pci/devices/0000:01:00.0").symlink_to(root / above / "0000:01:00.0")
        return _gpu.pci_gpus(root)

    return make


FULL = {"max_link_speed": "32.0 GT/s PCIe\n", "max_link_width": "16\n"}


@pytest.mark.parametrize(
    ("port", "now", "state", "says"),
    [
        ("32.0 GT/s PCIe", link("32.0", "16"), "ok", "generation 5, x16 (63.0 GB/s)"),
        ("16.0 GT/s PCIe", link("16.0", "16"), "ok", "generation 4, x16 (31.5 GB/s)"),
        ("32.0 GT/s PCIe", link("2.5", "16"), "unknown", "generation 1, x16 (4.00 GB/s), could be generation 5"),
        ("32.0 GT/s PCIe", link("32.0", "8"), "slow", "x8 (31.5 GB/s), of 16 lanes"),
        ("32.0 GT/s PCIe", {"current_link_speed": "Unknown\n"}, "unknown", "does not show"),
    ],
)
def test_a_link_is_compared_with_what_card_and_port_can_do(bus, port, now, state, says):
    (gpu,) = bus({"max_link_speed": f"{port}\n"}, **FULL, **now)
    found = _gpu.pcie(gpu)
    assert (found.state, says in found.found) == (state, True), found
    assert (gpu.address, gpu.numa_node) == ("0000:01:00.0", 1)


def test_a_bus_that_is_not_shown_has_no_gpus(tree):
    assert _gpu.pci_gpus(tree({})) == []


@pytest.fixture
def smi(tmp_path):
    """Return a function that makes an nvidia-smi which prints these lines, and gives back its path."""

    def make(*lines: str) -> str:
        path = tmp_path / "nvidia-smi"
        path.write_text("#!/bin/sh\ncat <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END\n")
        path.chmod(0o755)
        return str(path)

    return make


H100 = "NVIDIA H100, 00000000:01:00.0, 1024, 81559, 550.54.15"


def test_nvidia_smi_gives_names_driver_and_free_memory(tree, smi):
    facts = _gpu.gpu_facts(tree({}), smi=smi(H100, "a line of something else"), library="no libcuda")
    assert (facts.driver, len(facts.gpus), facts.gpus[0].free_bytes) == ("550.54.15", 1, 1 << 30)
    found = _gpu.driver(facts, [])
    assert (found.state, "no libcuda" in found.found, "--gpus all" in found.fix) == ("wrong", True, True)


def test_a_driver_without_nvidia_smi_is_read_from_proc(tree):
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: 12\n"
    facts = _gpu.gpu_facts(tree({"proc/driver/nvidia/version": text}), smi="no-such-smi", library="no libcuda")
    assert (facts.driver, facts.gpus) == ("570.86.15", ())


def test_a_card_on_the_bus_without_a_driver_is_wrong(bus, tree):
    gpus = bus({}, **FULL)
    facts = _gpu.gpu_facts(tree({}), smi="no-such-smi", library="no libcuda")
    assert _gpu.driver(facts, gpus).state == "wrong"


def test_no_gpu_at_all_is_said_and_is_not_wrong(tree):
    facts = _gpu.gpu_facts(tree({}), smi="no-such-smi", library="no libcuda")
    found = _gpu.driver(facts, [])
    assert (found.state, found.found) == ("unknown", "no GPU of NVIDIA's here")


def facts_of(cuda: int) -> _gpu.GpuFacts:
    return _gpu.GpuFacts((), "550.54.15", "NVIDIA H100", cuda, "")


def test_a_device_that_opens_is_ok():
    found = _gpu.driver(facts_of(12040), [])
    assert (found.state, found.found) == ("ok", "NVIDIA H100, driver 550.54.15, CUDA 12.4")


@pytest.mark.parametrize(
    ("built", "cuda", "state"),
    [("12.8", 12040, "ok"), ("13.0", 12040, "wrong"), ("", 12040, "wrong"), ("", 0, "wrong"), ("11.8", 12040, "ok")],
)
def test_torch_must_be_built_for_the_drivers_cuda(built, cuda, state):
    found = _gpu.torch_fits(_gpu.TorchFacts("2.9.0", built), facts_of(cuda))
    assert found.state == state, found


def test_torch_without_cuda_is_fine_without_a_gpu_and_no_torch_is_said():
    without = _gpu.GpuFacts((), "", "", 0, "no driver")
    assert _gpu.torch_fits(_gpu.TorchFacts("2.9.0+cpu", ""), without).state == "ok"
    missing = _gpu.torch_fits(None, without)
    assert (missing.state, missing.fix) == ("unknown", "pip install 'streamload[torch]'")


@pytest.mark.parametrize(
    ("free", "needed", "state"),
    [(70 << 30, 80 << 30, "slow"), (70 << 30, 16 << 30, "ok"), (20 << 30, 0, "slow"), (79 << 30, 0, "ok")],
)
def test_free_device_memory_is_compared_with_the_weights(free, needed, state):
    found = _gpu.device_memory(_gpu.Gpu("H100", "00000000:01:00.0", free, 80 << 30), needed)
    assert found.state == state, found


@pytest.mark.parametrize(("chosen", "state"), [("", "ok"), ("LAZY", "ok"), ("EAGER", "slow"), ("sometimes", "unknown")])
def test_eager_loading_of_kernels_is_slow(chosen, state):
    found = _gpu.module_loading(Environment.from_env({"CUDA_MODULE_LOADING": chosen}))
    assert (found.state, bool(found.fix)) == (state, state != "ok")
