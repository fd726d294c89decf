"""`make gpu-check` and the GPU marks without a GPU: both say so, quickly, and neither passes by accident.

Its measurements of copies run on the host device here, on a scale that makes them quick and their figures worthless.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from streamload import _native

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


@pytest.fixture(scope="module")
def load_script(repository):
    """Load a script of benchmarks/ as a module."""
    loaded = []

    def load(name):
        spec = importlib.util.spec_from_file_location(name, repository / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


@pytest.fixture(scope="module")
def gpu_check(load_script):
    """The script as a module."""
    return load_script("gpu_check")


@pytest.fixture(scope="module")
def gpu_copies(load_script):
    """The script of its measurements as a module."""
    return load_script("gpu_copies")


@pytest.fixture(scope="module")
def small(gpu_copies):
    """Sizes that take no time."""
    return gpu_copies.Sizes(
        region_bytes=1 << 20,
        ring_bytes=256 << 10,
        chunk_bytes=64 << 10,
        repeats=2,
        events=3,
        matrix_rows=16,
        matmuls=2,
    )


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_fails(repository, tmp_path):
    command = [sys.executable, repository / "benchmarks" / "gpu_check.py", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("required", "status", "says"), [("0", 0, "skipped"), ("1", 1, "STREAMLOAD_REQUIRE_CUDA=1")])
def test_a_missing_gpu_skips_or_fails_as_asked(repository, required, status, says):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_driver.py"]
    command += ["-k", "name_the_same_device"]
    environment = {**os.environ, "STREAMLOAD_REQUIRE_CUDA": required}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=repository, env=environment)
    assert done.returncode == status, done.stdout
    assert says in done.stdout


@pytest.mark.slow
def test_a_phase_that_outlives_its_budget_is_ended_with_its_children(gpu_check, tmp_path):
    pid_file = tmp_path / "pid"
    program = f"sleep 600 & echo $! > {pid_file}; wait"
    check = gpu_check.Check(60)
    phase = check.run("endless", ["bash", "-c", program], budget=5.5)
    assert not phase.passed
    assert "budget" in phase.note
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid_file.read_text().strip()], capture_output=True, text=True)
    assert state.stdout.strip() in ("", "Z"), "the child is gone"


def test_no_phase_begins_when_the_time_is_over(gpu_check):
    check = gpu_check.Check(0)
    phase = check.run("late", ["false"], budget=60)
    assert "no time" in phase.note
    assert not check.passed


def test_results_know_the_commit_and_hide_paths(gpu_check, tmp_path, repository):
    results = gpu_check.Results(tmp_path, "NVIDIA H200", "abc123")
    results.write("bench", {"command": f"{sys.executable} {repository}/x", "machine": {"commit": None}})
    (path,) = tmp_path.glob("*-nvidia-h200-bench.json")
    written = json.loads(path.read_text())
    assert written["machine"]["commit"] == "abc123"
    assert str(repository) not in path.read_text()


def test_missing_packages_are_named(gpu_check, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "NEEDED", ("no_such_package",))
    with pytest.raises(SystemExit):
        gpu_check.install_missing(gpu_check.Check(60), None)
    assert "no_such_package" in capsys.readouterr().err


def ratios_of(found):
    """Every ratio to the ceiling anywhere in a result."""
    if not isinstance(found, dict):
        return []
    return [value for key, value in found.items() if key == "ratio"] + [
        ratio for value in found.values() for ratio in ratios_of(value)
    ]


def test_every_open_question_gets_its_ratio(gpu_copies, small):
    device = _native.HostDevice()
    result = gpu_copies.measure(device, small, gpu_copies.Matmuls("cpu", small.matrix_rows))
    figures = json.loads(json.dumps(result))["figures"]
    assert set(figures["rectangles_by_row_bytes"]) == {"2048", "4096", "8192"}
    assert set(figures["blocks_by_bytes"]) == {"4096", "16384", "65536"}
    assert set(figures["chunks_from"]) == {"ring", "region"}
    assert set(figures["registration"]) == {"huge_pages", "small_pages"}
    assert figures["event"]["seconds"] > 0
    assert figures["while_computing"]["matmuls_ratio"] >= 0  # so few bytes may be over before one is done
    ratios = ratios_of(figures)
    assert len(ratios) == 3 + 2 * 3 + 2 + 2 + 1
    assert all(ratio > 0 for ratio in ratios)
    assert result["ceiling_bytes_per_second"] > 0
    assert device.live_objects == 0


def test_blocks_that_are_measured_lie_where_they_should(gpu_copies, small):
    device = _native.HostDevice()
    memory = gpu_copies.HostMemory(small.region_bytes)
    ctypes.memmove(memory.address, bytes(range(256)) * 4096, small.region_bytes)
    target = device.allocate(small.region_bytes)
    ring, chunk = small.ring_bytes, small.chunk_bytes
    device.time_copies(gpu_copies.plain_blocks(memory.address, target, chunk, 16, ring), 0, 1)
    assert device.read_back(target, 16 * chunk) == ctypes.string_at(memory.address, ring) * 4
    device.deallocate(target, small.region_bytes)


@pytest.mark.parametrize("fail_at", [0, 3])
@pytest.mark.parametrize("step", ["create_stream", "create_event", "copy", "record", "synchronize", "pin"])
def test_a_step_that_fails_ends_the_measurement_and_leaves_nothing(gpu_copies, small, step, fail_at):
    device = _native.HostDevice(fail_step=step, fail_at=fail_at, fail_from=True)
    with pytest.raises(_native.NativeError, match="on request"):
        gpu_copies.measure(device, small, None)
    assert device.live_objects == 0


@pytest.mark.slow
def test_measured_copies_are_a_phase_and_a_result(gpu_check, tmp_path):
    gpu_check.SITE.mkdir(parents=True, exist_ok=True)
    check = gpu_check.Check(60)
    gpu_check.run_copies(check, gpu_check.Results(tmp_path, "none", "abc123"), 60, ["--device", "cuda:0"])
    assert not check.passed
    assert not list(tmp_path.iterdir())
    gpu_check.run_copies(
        check, gpu_check.Results(tmp_path, "none", "abc123"), 60, ["--device", "host", "--region-mib", "16"]
    )
    (path,) = tmp_path.glob("*-none-copies.json")
    written = json.loads(path.read_text())
    assert written["device"] == "host"
    assert check.phases[-1].passed
    assert check.phases[-1].figures["figures"] == written["figures"]
    assert "while_computing" not in written["figures"]
