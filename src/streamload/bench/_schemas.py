"""The JSON Schema of each kind of result, as `schemas/` beside this file holds them.

Floor 6; stdlib only. What a result's "kind" says, with "bench " left out, is the name of its schema.
"""

from __future__ import annotations

import json
from pathlib import Path

from ._result import BenchError

__all__ = ["result_kinds", "result_schema"]

_FOLDER = Path(__file__).parent / "schemas"


def result_kinds() -> tuple[str, ...]:
    """Return the kinds of results that have a schema, in alphabetical order."""
    return tuple(sorted([file.stem for file in _FOLDER.glob("*.json")]))


def result_schema(kind: str) -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) of a kind of result, such as "link".

    Raises:
        BenchError: There is no such kind.
    """
    if kind not in result_kinds():
        raise BenchError(f"{kind!r} is no kind of result; there are {', '.join(result_kinds())}")
    found: dict[str, object] = json.loads((_FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return found
