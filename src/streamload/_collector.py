"""Keep Python's cyclic garbage collector out of the way while many objects are made that will live.

Floor 0; stdlib only. Every few hundred new objects may set off a walk over all that live, and beside torch those are
half a million: with 20,000 tensors the walks took as long as all else (benchmarks/engine, `--many-tensors`).
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold automatic collections back; those asked for by `gc.collect` still run. Reference counting is not touched.

    The switch is the process's. Whoever turned it off turns it on again: with several threads in here at once, the
    first that leaves may end the pause of the others, which costs them time and nothing else.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
