"""Raise one failure many times, to many waiters.

Floor 4, part of `torch`; pure.
"""

from __future__ import annotations

import copy
from typing import NoReturn, cast


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


def raise_through_dynamo(error: Exception) -> NoReturn:
    """Raise an exception where dynamo traces, so that it reaches the caller of a compiled function as what it is.

    Dynamo replaces what it does not know by an `InternalTorchDynamoError`, which nobody who awaits a `SourceError`
    catches; a `ShortenTraceback` of its own passes (torch/_dynamo/convert_frame.py, "Rewrap for clarity"). So raises
    one that is both, of the error's class and name.
    """
    import torch._dynamo.exc as dynamo

    passing = getattr(dynamo, "ShortenTraceback", None)
    if passing is None:
        raise error
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    both = type(kind.__name__, (kind, passing), names)
    twin = cast("Exception", both.__new__(both, *error.args))  # its __init__ wants what the class passes on
    twin.args = error.args
    twin.__dict__.update(error.__dict__, first_useful_frame=None)
    for name in ("errno", "strerror", "filename"):  # an OSError keeps these beside its dict; None set is not unset
        if getattr(error, name, None) is not None:
            setattr(twin, name, getattr(error, name))
    raise twin from error.__cause__
