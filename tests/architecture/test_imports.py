"""Importing streamload is cheap and brings in nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"torch", "numpy", "safetensors", "transformers", "matplotlib", "huggingface_hub", "vllm", "psutil"}
IMPORT_LIMIT_SECONDS = 0.050
RUNS = 20


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60)


def loaded_by(module: str) -> set[str]:
    """Every module that a fresh interpreter has loaded after importing one."""
    return set(run_python("-c", f"import sys, {module}; print(*sys.modules)").stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("face", ["streamload", "streamload.cli", "streamload.testing", "streamload.bench"])
def test_no_framework_is_loaded_before_it_is_used(face):
    assert not loaded_by(face) & FRAMEWORKS


@pytest.mark.slow
def test_importing_streamload_loads_no_other_package():
    assert not loaded_by("streamload") & {"click", "tqdm", "fsspec"}


@pytest.mark.slow
def test_importing_streamload_takes_under_50_ms():
    """The one test that asserts on time: the best of up to RUNS runs, so that a busy machine does not matter."""
    best = float("inf")
    for _ in range(RUNS):
        lines = run_python("-X", "importtime", "-c", "import streamload").stderr.splitlines()
        (cumulative,) = (line.split("|")[1] for line in lines if line.rpartition("|")[2].strip() == "streamload")
        best = min(best, int(cumulative) / 1e6)
        if best < IMPORT_LIMIT_SECONDS:
            return
    pytest.fail(f"import streamload took {best * 1e3:.1f} ms at best of {RUNS} runs")


@pytest.mark.slow
def test_importing_streamload_starts_no_thread_and_opens_no_file():
    code = (
        "import os, threading\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "import streamload\n"
        "print(threading.active_count(), len(set(os.listdir('/proc/self/fd')) - before))"
    )
    assert run_python("-c", code).stdout.split() == ["1", "0"]
