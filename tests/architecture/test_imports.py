"""Importing streamload is cheap and brings in nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "safetensors", "transformers", "matplotlib", "fsspec", "huggingface_hub", "vllm", "psutil"}
# Torch code outside the torch room: whole modules of it, which nobody may import at module level in turn.
TORCH_MODULES = {"streamload._demo._llama"}
IMPORT_LIMIT_SECONDS = 0.050
RUNS = 20


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60)


def imported_at_module_level(module):
    """The dotted names that importing a module imports at once, with the statement that does."""
    for node in module.tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name.split(".") if module.path.stem == "__init__" else module.name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            yield base, node
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)


def test_heavy_packages_are_imported_only_where_they_are_used(modules):
    wrong = [
        f"{module.at(node)}: {name}"
        for module in modules
        if module.room != "torch" and module.name not in TORCH_MODULES  # importing streamload.torch is asking for torch
        for name, node in imported_at_module_level(module)
        if name.split(".")[0] in HEAVY or name in TORCH_MODULES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_importing_streamload_loads_no_framework():
    loaded = set(run_python("-c", "import sys, streamload; print(*sys.modules)").stdout.split())
    assert not loaded & (HEAVY | {"click", "tqdm"})


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
