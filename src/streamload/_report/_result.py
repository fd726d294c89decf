"""Results as files hold them: the text, and what it says.

Part of `_report`; stdlib only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import StreamloadError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JsonObject", "ReportError", "Result", "read_result", "result_of"]


JsonObject: TypeAlias = Mapping[str, Any]
"""What JSON calls an object, of which it is not known what is in it."""


class ReportError(StreamloadError):
    """Report a result that cannot be shown, or a report that cannot be made."""


@dataclass(frozen=True, slots=True)
class Result:
    """Hold one result.

    Attributes:
        name: Its file's name.
        text: What the file holds, to the byte once encoded as UTF-8.
        content: What that says; numbers that JSON does not know are None.
        kind: What kind of result it says it is.
    """

    name: str
    text: str
    content: JsonObject
    kind: str


def read_result(path: Path) -> Result:
    """Read a result that a benchmark or a cold start has written.

    Raises:
        OSError: The file cannot be read.
        ReportError: It is no JSON object in UTF-8, or does not say what kind of result it is.
    """
    try:
        return result_of(path.name, path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: is no UTF-8 text, so no result: {error.reason} at byte {error.start}") from error
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def result_of(name: str, text: str) -> Result:
    """Return the result that a text holds.

    Args:
        name: What its file is called.
        text: JSON.

    Raises:
        ReportError: It is no JSON object, or does not say what kind of result it is.
    """
    try:
        content = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ReportError("is no result: a JSON object was expected")
    kind = content.get("kind", content.get("benchmark"))
    if not isinstance(kind, str):
        raise ReportError('is no result: it has no "kind"')
    return Result(name, text, content, kind)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
