"""What a process's start is spent on: phases that add up to its wall time.

Floor 5. The map:

    _process    when a process began, on the clock that all processes share
    _partition  moments and measured stretches become phases without gaps
    _report     phases, moments and loads; as text (_table), metrics (_metrics), spans (_spans)
    _recorder   what a program records
    _child      a program run to be measured, its imports by _imports
    _run        streamload coldstart
    _warmup     synthetic inputs through a model
"""

from typing import TYPE_CHECKING

from ._partition import Phase
from ._recorder import ColdStartRecorder
from ._report import ColdStartReport

if TYPE_CHECKING:
    from ._warmup import WarmupReport, WarmupShape, warmup

__all__ = ["ColdStartRecorder", "ColdStartReport", "Phase", "WarmupReport", "WarmupShape", "warmup"]


def __getattr__(name: str) -> object:
    """Bring in what needs torch at its first use (PEP 562)."""
    if name not in ("WarmupReport", "WarmupShape", "warmup"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _warmup

    return getattr(_warmup, name)
