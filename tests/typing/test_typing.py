"""A user's code type-checks against streamload, strictly, and the package says that it is typed."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_the_package_is_marked_as_typed(repository):
    assert (repository / "src" / "streamload" / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)  # without a cache mypy reads all of torch first
@pytest.mark.parametrize("consumer", ["consumer_core.py", "consumer_torch.py"])
def test_consumer_code_type_checks(repository, consumer):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", f"tests/typing/{consumer}"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
