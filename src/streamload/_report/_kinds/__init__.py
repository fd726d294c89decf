"""Which kind of result is shown how.

Part of `_report`; pure. A new kind of result gets a function here that makes a section of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._result import ReportError
from ._cold_start import cold_start
from ._first_token import demo, from_pretrained, planning, server, slow_link
from ._moving import compare, engine, link, many_tensors, source, storage, vllm
from ._overlap import overlap

if TYPE_CHECKING:
    from .._chart import Section
    from .._result import Result

__all__ = ["KINDS", "section_of"]

KINDS: Final = {
    "bench compare": compare,
    "bench engine": engine,
    "bench from_pretrained": from_pretrained,
    "bench from_pretrained planning": planning,
    "bench link": link,
    "bench many tensors": many_tensors,
    "bench overlap": overlap,
    "bench source": source,
    "bench storage": storage,
    "cold start": cold_start,
    "demo": demo,
    "example server": server,
    "slow link": slow_link,
    "vllm-load-weights": vllm,
}
"""How each kind of result is shown, by what it says its kind is."""


def section_of(result: Result) -> Section:
    """Return what a page shows of a result.

    Raises:
        ReportError: Its kind is unknown, or it lacks what one of its kind has.
    """
    if result.kind not in KINDS:
        raise ReportError(
            f"{result.name}: no report shows results of kind {result.kind!r}; known are {', '.join(KINDS)}"
        )
    try:
        return KINDS[result.kind](result, result.content)
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        message = f"{result.name}: is no whole result of kind {result.kind!r}: {type(error).__name__}: {error}"
        raise ReportError(message) from error
