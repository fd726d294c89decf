"""Raise one failure many times, to many waiters.

Floor 4, part of `torch`; pure.
"""

from __future__ import annotations

import copy
from typing import NoReturn


def raise_again(error: BaseException) -> NoReturn:
    """Raise an exception that was raised before, as if for the first time.

    Raises a copy: one object raised by several threads would mix their tracebacks, and keep their frames alive. What
    cannot be copied, such as a class of a source's own, is raised itself.
    """
    again = without_traceback(error)
    raise again from error.__cause__


def without_traceback(error: BaseException) -> BaseException:
    """Return a copy that keeps no frame alive, and so no memory; the exception itself if it cannot be copied."""
    try:
        twin = copy.copy(error)
    except TypeError:
        return error
    twin.__cause__ = error.__cause__
    return twin
