"""Check the index of a sharded checkpoint.

Part of `_format`. Besides its form, the names of its shards: an index comes from outside, and a name that leaves the
directory of the index would read any file. As with headers, what nearly everybody writes the native core reads, and
all else is parsed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .. import _native
from ..errors import FormatError
from ._json import collector_paused, decode_object, shown

PLAIN_PATH = (
    "a plain relative path that stays in the directory "
    "(no leading '/', no empty, '.' or '..' part, no backslash or control character, 1024 characters)"
)
_MAX_NAME = 1024  # characters; file systems and object stores allow no more
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # a terminal, or a list with a name a line, would be misled


@dataclass(frozen=True, slots=True)
class Index:
    """Hold the checked index of a sharded checkpoint.

    Attributes:
        weight_map: Tensor name to the shard's file name, relative to the directory of the index.
        metadata: The index's own `metadata`, any JSON; empty where there is none.
    """

    weight_map: dict[str, str]
    metadata: dict[str, object]


def parse_index(data: bytes | memoryview, *, url: str) -> Index:
    """Parse and check the index of a sharded checkpoint (`*.safetensors.index.json`).

    Args:
        data: The whole index file.
        url: Where the bytes come from, for the error's text.

    Raises:
        FormatError: The bytes are not a valid index, or it names a shard outside its directory.
    """
    with collector_paused(len(data)):
        scanned = _native.scan_index(data)
        if scanned is None:
            return parse_any_index(data, url=url)
    index = Index(*scanned)
    _check_shards(index.weight_map, url=url)
    return index


def parse_any_index(data: bytes | memoryview, *, url: str) -> Index:
    """Parse and check an index, however its JSON is written; errors as those of `parse_index`."""
    fields = decode_object(data, url=url, what="index")
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(f"{url}: index: expected an object 'weight_map', got {shown(weight_map)}")
    for name, shard in weight_map.items():
        if type(shard) is not str or "\0" in name:
            raise FormatError(
                f"{url}: index: expected tensor names without NUL sent to file names, got {shown(name)}: {shown(shard)}"
            )
    _check_shards(weight_map, url=url)
    metadata = fields.get("metadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise FormatError(f"{url}: index: expected 'metadata' to be an object, got {shown(metadata)}")
    return Index(weight_map, metadata)


def _check_shards(weight_map: dict[str, str], *, url: str) -> None:
    for shard in dict.fromkeys(weight_map.values()):
        if not is_plain_path(shard):
            raise FormatError(f"{url}: index: shard {shown(shard)} is refused: expected {PLAIN_PATH}")


def is_plain_path(name: str) -> bool:
    """Whether the name of a shard stays in the directory that it is taken from, and can be shown as it is."""
    parts = name.split("/")
    return (
        len(name) <= _MAX_NAME
        and "\\" not in name
        and _CONTROL.search(name) is None
        and {"", ".", ".."}.isdisjoint(parts)
    )
