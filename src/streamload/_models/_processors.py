"""Leave a processor to those who copy.

Part of `_models`; needs torch.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from .._machine import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["one_processor_for_copying"]


@contextmanager
def one_processor_for_copying() -> Iterator[None]:
    """Let torch compute on all processors but one, for the link's copies take time of theirs that a GPU's do not."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, usable_cpus() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
