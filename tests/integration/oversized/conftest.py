"""A small stack of blocks with its file, and rotations with the worst schedule."""

from __future__ import annotations

import pytest

from .hostile_rotation import HostileRotation
from .shared import Stack, least_budget, saved


@pytest.fixture
def hostile(monkeypatch):
    """Rotations with the worst schedule instead of the engine's own; the list of those that were made."""
    from streamload._engine import CopyEngine

    made = []

    def rotate(engine, *args: object, **kwargs: object):
        made.append(HostileRotation(engine, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(CopyEngine, "rotate", rotate)
    return made


@pytest.fixture
def stack(tmp_path):
    """The resident truth, its file, and the least device memory that will do."""
    reference, path = saved(tmp_path, Stack)
    return reference, path, least_budget(Stack, path)
