"""Check the header of one safetensors file.

Part of `_format`. The rules are those of safetensors 0.8 (`safetensors/src/tensor.rs`, `Metadata::validate`) and
five that it does not enforce: the header starts with `{` (as its specification asks), no key occurs twice in an
object, no tensor name holds NUL, a tensor is a JSON object, its dtype a string. Fields of a tensor that safetensors
does not know are ignored, as it ignores them.

What nearly everybody writes the native core reads; what it does not take is parsed here, where the words are for what
is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from .. import _native
from ..errors import FormatError
from ._json import MAX_JSON_NBYTES, U64_MAX, check_ignored, collector_paused, decode_object, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)
"""Bits of one element, for every dtype of safetensors 0.8."""

_DTYPE_BITS = tuple(DTYPE_BITS.items())  # as the native core takes them
_LENGTH_NBYTES = 8
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Describe one tensor of a checkpoint, as its header does.

    Attributes:
        name: Name in the header.
        dtype: Element type by its safetensors name, such as `BF16`, `F8_E4M3` or `F4`.
        shape: Elements per dimension; `()` is a scalar. Sub-byte types count elements, so `F4` has two a byte.
        start: First byte in the shard's file, counted from the start of the file.
        end: One past the last byte in the shard's file.
        shard: Index into `Checkpoint.shards`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    shard: int = 0

    @property
    def nbytes(self) -> int:
        """Length of the tensor's data in bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """Hold the checked header of one safetensors file.

    Attributes:
        by_name: Every tensor by its name, in the order of their bytes in the file: no gap, no overlap.
        metadata: The free text entries under `__metadata__`; empty where there are none.
        nbytes: Bytes before the data section: the eight of the length and the JSON after them.
    """

    by_name: dict[str, TensorInfo]
    metadata: dict[str, str]
    nbytes: int

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every tensor, in the order of their bytes in the file."""
        return tuple(self.by_name.values())


def header_nbytes(first8: bytes | memoryview, *, url: str, file_nbytes: int) -> int:
    """Return the bytes before the data section, from the first eight bytes of a file.

    Args:
        first8: The file's first eight bytes; fewer only if the file is shorter.
        url: Where the bytes come from, for the error's text.
        file_nbytes: Length of the whole file in bytes.

    Raises:
        FormatError: The file is too short, or the header longer than the cap or the file.
    """
    if len(first8) < _LENGTH_NBYTES:
        raise FormatError(
            f"{url}: not a safetensors file: {len(first8)} bytes long, and the header length alone takes 8"
        )
    length = int.from_bytes(first8[:_LENGTH_NBYTES], "little")
    if length > MAX_JSON_NBYTES:
        wrong = f"the format allows {MAX_JSON_NBYTES}"
    elif _LENGTH_NBYTES + length > file_nbytes:
        wrong = f"the file has {file_nbytes}, so it was cut off or is something else"
    else:
        return _LENGTH_NBYTES + length
    kind = _guess_kind(bytes(first8[:_LENGTH_NBYTES]))
    raise FormatError(f"{url}: not a safetensors file{kind}: header of {length} bytes, {wrong}")


def parse_header(prefix: bytes | memoryview, *, url: str, file_nbytes: int, shard: int = 0) -> Header:
    """Parse and check the header of one safetensors file.

    Args:
        prefix: The file's first `header_nbytes` bytes; bytes after those are not looked at.
        url: Where the bytes come from, for the error's text.
        file_nbytes: Length of the whole file in bytes; the tensors must cover all of it.
        shard: Index to give to every `TensorInfo`.

    Raises:
        FormatError: The bytes are not a valid header of a file of that length.
    """
    nbytes = header_nbytes(prefix[:_LENGTH_NBYTES], url=url, file_nbytes=file_nbytes)
    if len(prefix) < nbytes:
        raise FormatError(f"{url}: header cut off: got {len(prefix)} of its {nbytes} bytes")
    if prefix[_LENGTH_NBYTES:nbytes][:1] != b"{":
        raise FormatError(f"{url}: not a safetensors file: the header must start with '{{'")
    with collector_paused(nbytes):
        text = prefix[_LENGTH_NBYTES:nbytes]
        scanned = _native.scan_header(text, nbytes, file_nbytes, shard, _DTYPE_BITS, TensorInfo)
        if scanned is not None:
            return Header(*scanned, nbytes)
        return parse_any_header(text, url=url, nbytes=nbytes, file_nbytes=file_nbytes, shard=shard)


def parse_any_header(text: bytes | memoryview, *, url: str, nbytes: int, file_nbytes: int, shard: int) -> Header:
    """Parse and check the JSON of a header, however it is written; errors as those of `parse_header`."""
    entries = decode_object(text, url=url, what="header")
    metadata = _check_metadata(entries.pop(_METADATA, None), url=url)
    tensors = [_check_tensor(name, entry, nbytes, shard, url) for name, entry in entries.items()]
    tensors.sort(key=_file_order)
    _check_cover(tensors, url=url, start=nbytes, end=file_nbytes)
    return Header({tensor.name: tensor for tensor in tensors}, metadata, nbytes)


def _check_tensor(name: str, entry: object, base: int, shard: int, url: str) -> TensorInfo:
    if type(entry) is not dict:
        raise FormatError(f"{url}: {_named(name)}: expected an object, got {shown(entry)}")
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except KeyError as error:
        raise FormatError(f"{url}: {_named(name)}: no field {error}") from None
    if len(entry) != 3:
        check_ignored(entry, where=f"{url}: {_named(name)}")
    if "\0" in name:
        raise FormatError(f"{url}: {_named(name)}: a name must not hold NUL")
    if type(dtype) is not str or dtype not in DTYPE_BITS:
        known = ", ".join(DTYPE_BITS)
        raise FormatError(f"{url}: {_named(name)}: unknown dtype {shown(dtype)}, known are {known}")
    size = _count_bits(shape, DTYPE_BITS[dtype], name=name, url=url)
    if type(offsets) is not list or len(offsets) != 2 or not (type(offsets[0]) is type(offsets[1]) is int):
        raise FormatError(f"{url}: {_named(name)}: expected two whole numbers as data_offsets, got {shown(offsets)}")
    start, end = offsets
    if not 0 <= start <= end <= U64_MAX or (end - start) * 8 != size:
        raise FormatError(
            f"{url}: {_named(name)}: {dtype} of shape {shown(shape)} takes {_in_bytes(size)}, "
            f"got data_offsets {shown(offsets)}"
        )
    return TensorInfo(name, dtype, tuple(shape), base + start, base + end, shard)


def _count_bits(shape: object, bits: int, *, name: str, url: str) -> int:
    """Multiply in safetensors' order: elements first, from the left, each step within 64 bits."""
    if type(shape) is not list:
        raise FormatError(f"{url}: {_named(name)}: expected a list as shape, got {shown(shape)}")
    count = 1
    for length in shape:
        if type(length) is not int or not 0 <= length <= U64_MAX:
            raise FormatError(
                f"{url}: {_named(name)}: expected whole numbers of at most 64 bits as shape, got {shown(shape)}"
            )
        count *= length
        if count > U64_MAX:
            break
    size = count * bits
    if size > U64_MAX:
        raise FormatError(f"{url}: {_named(name)}: shape {shown(shape)} overflows 64 bits")
    return size


def _check_cover(tensors: Iterable[TensorInfo], *, url: str, start: int, end: int) -> None:
    expected = start
    for tensor in tensors:
        if tensor.start != expected:
            kind = "overlaps the tensor before it" if tensor.start < expected else "leaves a hole before it"
            raise FormatError(
                f"{url}: {_named(tensor.name)} {kind}: data starts at byte {tensor.start} of the file, "
                f"expected {expected}"
            )
        expected = tensor.end
    if expected != end:
        raise FormatError(
            f"{url}: the tensors end at byte {expected} of the file, but it has {end} bytes; "
            f"{'it was cut off' if expected > end else 'something was appended'}"
        )


def _check_metadata(value: object, *, url: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{url}: {_METADATA}: expected an object, got {shown(value)}")
    for key, text in value.items():
        if type(text) is not str:
            raise FormatError(f"{url}: {_METADATA}: expected text under {shown(key)}, got {shown(text)}")
    return value


def _file_order(tensor: TensorInfo) -> tuple[int, int]:
    return tensor.start, tensor.end


def _named(name: str) -> str:
    return f"tensor {shown(name)}"


def _in_bytes(bits: int) -> str:
    return f"{bits // 8} bytes" if bits % 8 == 0 else f"{bits} bits, which is no whole number of bytes"


def _guess_kind(first8: bytes) -> str:
    """Name what else a file might be, from its first eight bytes."""
    if first8.startswith(b"PK\x03\x04"):
        return " but a zip archive, as torch.save writes it (a pickle)"
    if first8[0] == 0x80 and first8[1] <= 5:
        return " but a pickle"
    if first8.startswith(b"GGUF"):
        return " but a GGUF file"
    if first8 == b"version ":
        return " but perhaps a Git LFS pointer (`git lfs pull` fetches the file)"
    if all(32 <= byte < 127 or byte in b"\t\n\r" for byte in first8):
        return f" but a text file that starts with {first8.decode('ascii')!r}"
    return ""
