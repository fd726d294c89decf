"""Say how far a benchmark is, to whoever wants to show it.

Floor 6; pure. The command line has a screen for it; without one nothing is shown.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

__all__ = ["SILENT", "BenchProgress", "Silent"]


class BenchProgress(Protocol):
    """Shows how far a benchmark is, stage by stage; one stage is under way at a time."""

    def stage(self, name: str, total: float, unit: str = "") -> AbstractContextManager[Callable[..., object]]:
        """Begin a stage that ends with the block; gives a function that counts what is done.

        Args:
            name: What is done.
            total: How much there is of it.
            unit: What is counted: "B" for bytes; else runs or the like.
        """


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: float, unit: str = "") -> Iterator[Callable[..., object]]:
        """Give a function that does nothing."""
        yield lambda count=1: None


SILENT = Silent()
"""For whoever does not watch."""
