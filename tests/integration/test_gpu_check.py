"""`make gpu-check` and the GPU marks without a GPU: both say so, quickly, and neither passes by accident."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


@pytest.fixture(scope="module")
def gpu_check(repository):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_check", repository / "benchmarks" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


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
