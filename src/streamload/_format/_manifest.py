"""Check and write a manifest: the JSON that says what the bytes of a checkpoint sum to.

Part of `_format`. A manifest holds, per shard, its length and the CRC-32C of the whole file, and per tensor in it the
dtype, shape and CRC-32C: so that a manifest of another checkpoint is told before a byte is summed. Offsets are not in
it: a shard whose tensors moved has another checksum, and its tensors keep theirs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import FormatError
from ._header import DTYPE_BITS
from ._index import PLAIN_PATH, is_plain_path
from ._json import MAX_JSON_NBYTES, U64_MAX, collector_paused, decode_object, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMAT: Final = "streamload-checksums"
_VERSION: Final = 1
_ALGORITHM: Final = "crc32c"
_HEX8: Final = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class TensorSum:
    """Say what one tensor is and what its bytes sum to.

    Attributes:
        dtype: Element type by its safetensors name.
        shape: Elements per dimension.
        crc32c: CRC-32C of its bytes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    crc32c: int


@dataclass(frozen=True, slots=True)
class ShardSums:
    """Say what one shard and the tensors in it sum to.

    Attributes:
        nbytes: Length of the file.
        crc32c: CRC-32C of the whole file, header included.
        tensors: Its tensors by name.
    """

    nbytes: int
    crc32c: int
    tensors: Mapping[str, TensorSum]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Hold the checked manifest of one checkpoint.

    Attributes:
        shards: Its shards by their path below the checkpoint's directory. No tensor is in two of them.
    """

    shards: Mapping[str, ShardSums]


def parse_manifest(data: bytes | memoryview, *, url: str) -> Manifest:
    """Parse and check a manifest.

    Args:
        data: The whole file.
        url: Where the bytes come from, for the error's text.

    Raises:
        FormatError: The bytes are not a valid manifest of the version and algorithm that are known here.
    """
    try:
        if len(data) > MAX_JSON_NBYTES:
            raise _Wrong(f"{len(data)} bytes long, at most {MAX_JSON_NBYTES} are allowed")
        with collector_paused(len(data)):
            return Manifest(_check_manifest(decode_object(data, url=url, what="manifest")))
    except _Wrong as error:
        raise FormatError(f"{url}: manifest: {error}") from None


def format_manifest(manifest: Manifest) -> str:
    """Return the text of a manifest, one tensor a line."""
    shards = [
        f'{_quoted(name)}: {{"nbytes": {shard.nbytes}, "crc32c": "{shard.crc32c:08x}", "tensors": {{'
        + ",".join([f"\n{_quoted(tensor)}: {_format_tensor(known)}" for tensor, known in shard.tensors.items()])
        + "\n}}"
        for name, shard in manifest.shards.items()
    ]
    head = f'"format": "{_FORMAT}", "version": {_VERSION}, "algorithm": "{_ALGORITHM}"'
    return f'{{{head}, "shards": {{\n' + ",\n".join(shards) + "\n}}\n"


def _format_tensor(tensor: TensorSum) -> str:
    return f'{{"dtype": "{tensor.dtype}", "shape": {list(tensor.shape)}, "crc32c": "{tensor.crc32c:08x}"}}'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class _Wrong(Exception):
    """Say what is wrong; where is added on the way out, as naming 90,000 tensors takes longer than checking them."""


def _check_manifest(fields: dict[str, object]) -> dict[str, ShardSums]:
    for field, known in (("format", _FORMAT), ("version", _VERSION), ("algorithm", _ALGORITHM)):
        value = fields.get(field)
        if type(value) is not type(known) or value != known:
            raise _Wrong(f"expected {field} {known!r}, got {shown(value)}")
    _check_fields(fields, ("format", "version", "algorithm", "shards"))
    shards: dict[str, ShardSums] = {}
    seen: set[str] = set()
    for name, entry in _check_object(fields["shards"]).items():
        try:
            shards[name] = shard = _check_shard(name, entry)
            if not seen.isdisjoint(shard.tensors):
                raise _Wrong(f"tensor {shown(min(seen.intersection(shard.tensors)))} is in another shard too")
        except _Wrong as error:
            raise _Wrong(f"shard {shown(name)}: {error}") from None
        seen.update(shard.tensors)
    return shards


def _check_shard(name: str, entry: object) -> ShardSums:
    if not is_plain_path(name):
        raise _Wrong(f"refused: expected {PLAIN_PATH}")
    fields = _check_object(entry)
    _check_fields(fields, ("nbytes", "crc32c", "tensors"))
    nbytes = fields["nbytes"]
    if type(nbytes) is not int or not 0 <= nbytes <= U64_MAX:
        raise _Wrong(f"expected a whole number of at most 64 bits as nbytes, got {shown(nbytes)}")
    tensors: dict[str, TensorSum] = {}
    for tensor, known in _check_object(fields["tensors"]).items():
        try:
            tensors[tensor] = _check_tensor(tensor, known)
        except _Wrong as error:
            raise _Wrong(f"tensor {shown(tensor)}: {error}") from None
    return ShardSums(nbytes, _check_crc(fields["crc32c"]), tensors)


def _check_tensor(name: str, entry: object) -> TensorSum:
    if "\0" in name:
        raise _Wrong("a name must not hold NUL")
    fields = _check_object(entry)
    _check_fields(fields, ("dtype", "shape", "crc32c"))
    dtype, shape = fields["dtype"], fields["shape"]
    if type(dtype) is not str or dtype not in DTYPE_BITS:
        raise _Wrong(f"unknown dtype {shown(dtype)}, known are {', '.join(DTYPE_BITS)}")
    if not isinstance(shape, list):
        raise _Wrong(f"expected a list as shape, got {shown(shape)}")
    for length in shape:
        if type(length) is not int or not 0 <= length <= U64_MAX:
            raise _Wrong(f"expected whole numbers of at most 64 bits as shape, got {shown(shape)}")
    return TensorSum(dtype, tuple(shape), _check_crc(fields["crc32c"]))


def _check_crc(value: object) -> int:
    if type(value) is not str or not _HEX8.fullmatch(value):
        raise _Wrong(f"expected eight hexadecimal digits in lower case as crc32c, got {shown(value)}")
    return int(value, 16)


def _check_fields(entry: dict[str, object], known: tuple[str, ...]) -> None:
    """Refuse an object with fewer fields or others: a field nobody reads may be one that somebody relied on."""
    for field in known:
        if field not in entry:
            raise _Wrong(f"no field {field!r}")
    if len(entry) != len(known):
        unknown = next(field for field in entry if field not in known)
        raise _Wrong(f"unknown field {shown(unknown)}, known are {', '.join(known)}")


def _check_object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Wrong(f"expected an object, got {shown(value)}")
    return value
