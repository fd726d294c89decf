"""Measure what importing takes in this process.

Part of `_coldstart`. For a process that runs to be measured: it replaces `builtins.__import__` and
`importlib.import_module` for good.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import threading
import time
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from ._partition import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._recorder import Record

__all__ = ["measure_imports"]

_LEAST_SECONDS: Final = 1e-3  # of one import; shorter ones stay with what is around them
_Arguments = ParamSpec("_Arguments")
_Imported = TypeVar("_Imported")


def measure_imports(record: Record) -> None:
    """Have a record keep every import from now on, those that another import makes as part of it."""
    importing = threading.local()

    def timed(original: Callable[_Arguments, _Imported]) -> Callable[_Arguments, _Imported]:
        @functools.wraps(original)
        def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Imported:
            if getattr(importing, "outermost", False):
                return original(*args, **kwargs)
            importing.outermost = True
            began = time.monotonic()
            try:
                return original(*args, **kwargs)
            finally:
                importing.outermost = False
                ended = time.monotonic()
                if ended - began >= _LEAST_SECONDS:
                    record.note_phase(Phase("imports", began, ended, _module_named(*args, **kwargs)))

        return wrapper

    builtins.__import__ = timed(builtins.__import__)
    importlib.import_module = timed(importlib.import_module)


def _module_named(
    name: object = "",
    globals: object = None,
    locals: object = None,
    fromlist: object = (),
    level: object = 0,
    package: object = None,
) -> str:
    """Return the module that a call of either function names; of a relative one, with the package that it is in."""
    near = globals.get("__package__") if isinstance(globals, dict) else None
    return f"{near}.{name}".rstrip(".") if level and near else str(name)
