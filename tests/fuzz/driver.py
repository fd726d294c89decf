"""Run one check under atheris, which keeps every input that reaches new code of ours.

`python tests/fuzz/fuzz_header.py [libFuzzer options] [corpus directories]`; new inputs go to the first directory.
Exits with 77 where atheris is not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

SKIPPED = 77
"""Exit code of a job that could not run here, by the convention of automake."""


def fuzz(check: str) -> NoReturn:
    """Fuzz the function of that name in `checks.py` with the options of the command line; ends the process."""
    try:
        import atheris
    except ImportError:
        print("fuzz: skipped, atheris is not installed (pip install atheris)", file=sys.stderr)
        sys.exit(SKIPPED)
    with atheris.instrument_imports(include=["streamload", "checks", "json.decoder"]):
        import checks
    options = sys.argv
    if not any(option.startswith("-dict=") for option in options):
        options = [*options, f"-dict={Path(__file__).with_name('json.dict')}"]
    atheris.Setup(options, getattr(checks, check))
    atheris.Fuzz()
    sys.exit(0)
