"""Every input that the fuzzers found worth keeping goes through the parsers again."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent
PARSERS = ("header", "index", "manifest", "models")
CHECKS = runpy.run_path(str(FUZZ / "checks.py"))


def corpus(name: str) -> list[Path]:
    return sorted((FUZZ / "corpus" / name).iterdir())


@pytest.mark.parametrize("name", PARSERS)
def test_corpus_passes(name):
    files = corpus(name)
    assert len(files) > 20
    for file in files:
        CHECKS[f"check_{name}"](file.read_bytes())


def test_corpus_stays_small():
    assert (
        sum(file.stat().st_size for name in ("header", "index", "manifest", "models") for file in corpus(name))
        < 1_000_000
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_fuzzer_runs(name, tmp_path):
    command = [sys.executable, FUZZ / f"fuzz_{name}.py", "-runs=200", tmp_path, FUZZ / "corpus" / name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip("atheris is not installed")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_missing_atheris_is_a_skip_with_a_reason(tmp_path):
    (tmp_path / "atheris.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, FUZZ / "fuzz_index.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 77
    assert "atheris is not installed" in done.stderr
