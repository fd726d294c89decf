"""What every test shares: where the repository is, and how hypothesis behaves.

Tests of one room keep their fixtures beside them; what users of the library may need too lives in
`streamload.testing`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No deadlines: a shared machine is slow at times, and time is asserted in one place only (test_imports.py).
settings.register_profile("local", deadline=None)
# On CI a red build must be repeatable from its log alone.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
