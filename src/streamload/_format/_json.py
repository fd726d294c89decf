"""Decode JSON as strictly as safetensors' own reader (serde_json), and every failure into `FormatError`.

Part of `_format`. Python's decoder takes more than JSON (NaN, lone surrogates, numbers without end) and keeps the
last of two equal keys; here all of that is refused.
"""

from __future__ import annotations

import gc
import json
import sys
from contextlib import contextmanager
from math import isinf
from reprlib import Repr
from typing import TYPE_CHECKING

from ..errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_JSON_NBYTES = 100_000_000
"""Longest JSON header, in bytes, that safetensors writes or reads; also the cap for an index."""

U64_MAX = (1 << 64) - 1

# serde_json stops at 128 levels (`remaining_depth`): itself, the header and the tensor take three of them.
_MAX_DEPTH = 125
_DOUBLE_MAX = int(sys.float_info.max)
_LARGE_NBYTES = 1 << 20  # a header of about 10,000 tensors; below it the collector costs nothing that shows

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: object) -> str:
    """Return the value for an error's text, cut to a readable length."""
    return _SHORT.repr(value)


def decode_object(data: bytes | memoryview, *, url: str, what: str) -> dict[str, object]:
    """Return the JSON object that the bytes spell.

    Numbers come out as int where they are whole and fit, else as float.

    Args:
        data: UTF-8 text.
        url: Where the bytes come from, for the error's text.
        what: What they are, for the error's text.

    Raises:
        FormatError: They are not a JSON object, or one with equal keys.
    """
    try:
        text = str(data, "utf-8")
        value = _decode_fast(text) or _decode_strict(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is not a character: ValueError
    except RecursionError:
        raise FormatError(f"{url}: {what}: nested too deeply to be JSON of this kind") from None
    except ValueError as error:
        raise FormatError(f"{url}: {what}: not valid JSON: {error}") from error
    if type(value) is not dict:
        raise FormatError(f"{url}: {what}: expected a JSON object, got {shown(value)}")
    return value


@contextmanager
def collector_paused(nbytes: int) -> Iterator[None]:
    """Keep the cyclic garbage collector from walking a large header again and again while it grows.

    It finds nothing there, and doubles the time of 90,000 tensors. The switch belongs to the process, so it is
    thrown for large headers only and put back in any case; loads in several threads all leave it on. Only a
    `gc.disable` by another thread in these milliseconds would be undone.
    """
    enabled = gc.isenabled() and nbytes > _LARGE_NBYTES
    try:
        if enabled:
            gc.disable()
        yield
    finally:
        if enabled:
            gc.enable()


def check_ignored(fields: dict[str, object], *, where: str) -> None:
    """Refuse in fields that nobody reads what serde_json refuses anywhere: deep nesting, numbers beyond a double.

    Raises:
        FormatError: Something of the kind is in there; `where` says where.
    """
    level: list[object] = list(fields.values())
    for _ in range(_MAX_DEPTH + 1):
        below: list[object] = []
        nested = False
        for value in level:
            if type(value) is int and abs(value) > _DOUBLE_MAX:
                raise FormatError(f"{where}: a number is out of range")
            if type(value) is list:
                nested = True
                below += value
            elif type(value) is dict:
                nested = True
                below += value.values()
        if not nested:
            return
        level = below
    raise FormatError(f"{where}: nested more than {_MAX_DEPTH} levels deep")


def _decode_fast(text: str) -> object:
    """Decode with the plain decoder, twice as fast; None where that cannot prove that no key occurs twice.

    Every key stands before a colon, so there are at most `text.count(":")` keys; when as many are left in the
    decoded objects, none was overwritten. Colons inside strings and deeper objects only make this give up.
    """
    if "-0" in text:  # perhaps the number -0, which is no index
        return None
    value = json.loads(text, parse_float=_parse_real, parse_constant=_refuse_constant)
    if type(value) is not dict:
        return None
    keys = len(value) + sum([len(entry) for entry in value.values() if type(entry) is dict])
    return value if keys == text.count(":") else None


def _decode_strict(text: str) -> object:
    return json.loads(
        text,
        object_pairs_hook=_unique_keys,
        parse_int=_parse_integer,
        parse_float=_parse_real,
        parse_constant=_refuse_constant,
    )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} occurs twice in one object")
            seen.add(key)
    return entries


def _parse_integer(digits: str) -> int | float:
    """Return an int for what fits in 64 unsigned bits; all else is a float, which no field we read accepts."""
    if len(digits) < 20 and digits[0] != "-":
        return int(digits)
    if len(digits) == 20 and digits[0] != "-" and (value := int(digits)) <= U64_MAX:
        return value
    return _parse_real(digits)


def _parse_real(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ValueError(f"the number {shown(digits)} is out of range")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
