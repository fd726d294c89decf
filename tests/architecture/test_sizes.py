"""No file over 400 lines, no function over 60."""

from __future__ import annotations

import subprocess
import sys


def test_every_file_and_function_is_within_its_limit(repository):
    script = repository / "tests" / "architecture" / "sizes.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
