"""The commands a newcomer types say what a machine lacks, and what there is to type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def check_machine(repository):
    """Run .ci/check-machine for an interpreter and a compiler; give back what it says."""

    def run(python: str = sys.executable, compiler: str = "") -> subprocess.CompletedProcess[str]:
        command = ["env", f"CXX={compiler}", repository / ".ci" / "check-machine", python]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def program(tmp_path):
    """Write a small shell program and give back its path."""

    def write(body: str) -> str:
        path = Path(tmp_path, "program")
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return write


def test_a_machine_with_everything_passes_in_silence(check_machine):
    done = check_machine()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_python_is_named_with_its_version(check_machine, program):
    done = check_machine(python=program('[ "$1" = -V ] && echo Python 3.8.1; exit 1'))
    assert done.returncode == 1
    assert "Python 3.10 or newer is needed" in done.stderr
    assert "Python 3.8.1" in done.stderr


def test_a_python_without_ensurepip_says_what_to_install(check_machine, program):
    done = check_machine(python=program('case "$2" in *ensurepip*) exit 1;; esac; exit 0'))
    assert done.returncode == 1
    assert "python3-venv" in done.stderr


def test_a_missing_python_is_named(check_machine):
    done = check_machine(python="no-such-python")
    assert done.returncode == 1
    assert "no 'no-such-python' found" in done.stderr


@pytest.mark.parametrize(
    ("compiler", "words"), [("no-such-compiler", "no C++ compiler"), ("false", "'false' does not compile C++20")]
)
def test_a_missing_or_old_compiler_is_named(check_machine, compiler, words):
    done = check_machine(compiler=compiler)
    assert done.returncode == 1
    assert words in done.stderr


def test_make_alone_lists_the_recipes(repository):
    listed = subprocess.run(["make"], cwd=repository, capture_output=True, text=True, check=True, timeout=60).stdout
    wanted = {
        "build",
        "lint",
        "types",
        "test",
        "test-native",
        "asan",
        "tsan",
        "fuzz",
        "docs",
        "bench",
        "demo",
        "gpu-check",
        "size",
    }
    assert wanted <= {line.split()[0] for line in listed.splitlines() if line.strip()}
