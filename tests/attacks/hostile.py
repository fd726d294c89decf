"""Every hostile checkpoint we know of, each made by a few lines: `python tests/attacks/hostile.py DIRECTORY`.

An attack is a file or directory that somebody who means harm, or a broken tool, could hand us. New ones are added here
as they are thought of or found, and stay.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamload.errors import FormatError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Attack:
    """One hostile checkpoint.

    Attributes:
        name: What it tries.
        write: Makes it inside an empty directory and returns the path to open.
        error: What opening it must raise, None where it is harmless and must open.
        says: Text that the error must hold.
    """

    name: str
    write: Callable[[Path], Path]
    error: type[Exception] | None
    says: str = ""


def with_length(header: str | bytes, data: bytes = b"") -> bytes:
    """A file of this header and data."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str = '"F32"', shape: str = "[1]", offsets: str = "[0,4]", more: str = "") -> str:
    """The JSON of one tensor, each field as raw text."""
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}'


def one(**fields: str) -> bytes:
    """A file of one tensor with such fields and four bytes of data."""
    return with_length(f'{{"a":{tensor(**fields)}}}', bytes(4))


def two(first: str, second: str, data_nbytes: int) -> bytes:
    """A file of two tensors at these offsets."""
    return with_length(f'{{"a":{tensor(offsets=first)},"b":{tensor(offsets=second)}}}', bytes(data_nbytes))


def single(name: str, data: bytes, says: str, error: type[Exception] | None = FormatError) -> Attack:
    """An attack by one file."""

    def write(directory: Path) -> Path:
        path = directory / "model.safetensors"
        path.write_bytes(data)
        return path

    return Attack(name, write, error, says)


def harmless(name: str, data: bytes) -> Attack:
    """A file that looks like an attack and must open."""
    return single(name, data, "", None)


def indexed(
    name: str,
    shard: str,
    says: str,
    error: type[Exception] = FormatError,
    make: Callable[[Path], object] = lambda path: None,
) -> Attack:
    """An attack by an index that names one shard, which `make` makes where the name leads."""

    def write(directory: Path) -> Path:
        models = directory / "models"
        models.mkdir()
        (models / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        make(models / shard)
        return models

    return Attack(name, write, error, says)


def lengths() -> list[Attack]:
    """Lies about how long the header is, and files that are something else."""
    return [
        single("empty file", b"", "0 bytes long"),
        single("length cut off", b"\x02\0\0\0\0\0\0", "7 bytes long"),
        single("length of zero", bytes(8), "must start with"),
        single("length of 2^63", struct.pack("<Q", 1 << 63) + b"{}", "9223372036854775808"),
        single("length of 2^64 - 1 wraps to 7", b"\xff" * 8 + b"{}", "18446744073709551615"),
        single("length of 2^64 - 8 wraps to 0", struct.pack("<Q", (1 << 64) - 8) + b"{}", "the format allows"),
        single("length just over the cap", struct.pack("<Q", 100_000_001) + b"{}", "100000001"),
        single("length at the cap of a short file", struct.pack("<Q", 100_000_000) + b"{}", "the file has 10"),
        single("length one over the file", struct.pack("<Q", 3) + b"{}", "the file has 10"),
        single("length ends inside the JSON", struct.pack("<Q", len(one()) - 14) + one()[8:], "not valid JSON"),
        single("zip archive", b"PK\x03\x04\x14\0\0\x08\x08" + bytes(50), "zip archive"),
        single("pickle", b"\x80\x04\x95\x10\0\0\0\0" + bytes(50), "a pickle"),
        single("text", b"#!/bin/sh\nrm -rf ~\n", "a text file"),
        single("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ]


def json_tricks() -> list[Attack]:
    """JSON that parsers disagree on or choke on."""
    empty = tensor(shape="[0]", offsets="[0,0]")
    many = ",".join([f'"t{number}":{empty}' for number in range(5_000)])
    return [
        single("100,000 levels deep", with_length('{"a":' * 100_000), "nested"),
        single("100,000 lists deep", with_length('{"a":' + "[" * 100_000), "nested"),
        single("unknown field 126 levels deep", one(more=',"x":' + "[" * 126 + "]" * 126), "nested"),
        harmless("unknown field 100,000 wide", one(more=',"x":[' + "[]," * 100_000 + "0]")),
        harmless("5,000 empty tensors at one offset", with_length(f"{{{many}}}")),
        harmless("a million spaces of padding", with_length("{}" + " " * 10**6)),
        single("number of 4,000 digits", one(offsets="[0," + "9" * 4000 + "]"), "data_offsets"),
        single("number of 5,000 digits", one(offsets="[0," + "9" * 5000 + "]"), "header"),
        single("number of a million digits", one(offsets="[0," + "9" * 10**6 + "]"), "header"),
        single("fraction of a million digits", one(offsets="[0,4." + "0" * 10**6 + "]"), "whole numbers"),
        single("exponent beyond a double", one(offsets="[0,4e999]"), "out of range"),
        single("not a number", one(shape="[NaN]"), "NaN"),
        single("infinity", one(shape="[Infinity]"), "Infinity"),
        single("minus zero", one(offsets="[-0,4]"), "whole numbers"),
        single("true as one", one(shape="[true]"), "whole numbers"),
        single("byte order mark", with_length("\ufeff{}"), "must start with"),
        single("overlong UTF-8", with_length(b'{"\xc0\xaf":{}}'), "not valid JSON"),
        single("encoded surrogate", with_length(b'{"\xed\xa0\x80":{}}'), "not valid JSON"),
        single("escaped lone surrogate", one(more=',"\\ud800":0'), "surrogates"),
        single("NUL ends a C string early", with_length(f'{{"a\\u0000b":{tensor()}}}', bytes(4)), "NUL"),
        single("second header after the first", with_length('{}{"a":1}'), "not valid JSON"),
        single("same tensor twice", with_length(f'{{"a":{empty},"a":{tensor()}}}', bytes(4)), "twice"),
        single(
            "same tensor twice, once escaped", with_length(f'{{"a":{empty},"\\u0061":{tensor()}}}', bytes(4)), "twice"
        ),
        single("same field twice", one(more=',"dtype":"U8"'), "twice"),
        single("metadata twice", with_length('{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}'), "twice"),
        single("metadata that is no text", with_length('{"__metadata__":{"a":{"b":"c"}}}'), "expected text"),
        single("tensor as a list", with_length('{"a":["F32",[1],[0,4]]}', bytes(4)), "expected an object"),
        single("dtype as an object", one(dtype='{"F32":null}'), "unknown dtype"),
    ]


def ranges() -> list[Attack]:
    """Tensors that claim bytes which are not theirs."""
    return [
        single("two tensors share bytes", two("[0,4]", "[0,4]", 4), "overlaps"),
        single("two tensors overlap", two("[0,4]", "[2,6]", 6), "overlaps"),
        single("hole before the first", two("[4,8]", "[8,12]", 12), "hole"),
        single("hole between tensors", two("[0,4]", "[8,12]", 12), "hole"),
        single("payload behind the last", one() + b"MZ payload", "appended"),
        single("payload without tensors", with_length("{}", b"payload"), "appended"),
        single("data cut off", one()[:-1], "cut off"),
        single("range far behind the file", one(shape="[1073741824]", offsets="[0,4294967296]"), "cut off"),
        single("range wraps 64 bits", one(offsets="[18446744073709551612,18446744073709551616]"), "data_offsets"),
        single("range into the header", one(offsets="[-4,0]"), "data_offsets"),
        single("range reversed", one(offsets="[4,0]"), "data_offsets"),
        single("elements wrap 64 bits to one", one(shape="[4294967297,4294967297]"), "overflows"),
        single(
            "elements wrap 64 bits, then zero", one(shape="[4294967296,4294967296,0]", offsets="[0,0]"), "overflows"
        ),
        single("bits wrap 64 bits", one(shape="[576460752303423489]"), "overflows"),
        single("packed type ends inside a byte", one(dtype='"F4"', shape="[9]"), "no whole number of bytes"),
        single(
            "empty tensor inside another",
            with_length(f'{{"a":{tensor()},"b":{tensor(shape="[0]", offsets="[2,2]")}}}', bytes(4)),
            "overlaps",
        ),
        harmless("tensor named like a path", with_length(f'{{"../../etc/passwd":{tensor()}}}', bytes(4))),
        harmless("tensor name of a million characters", with_length(f'{{"{"x.9" * 333_333}":{tensor()}}}', bytes(4))),
    ]


def indices() -> list[Attack]:
    """Indices that lead somewhere else, and shards that are no files."""
    shard = "b.safetensors"
    return [
        indexed("index leaves its directory", f"../{shard}", "is refused", make=lambda path: path.write_bytes(one())),
        indexed("index leaves its directory by a detour", f"sub/../../{shard}", "is refused"),
        indexed("index names an absolute path", "/etc/passwd", "is refused"),
        indexed("index names a URL", "file:///etc/passwd", "is refused"),
        indexed("index names a Windows path", f"..\\{shard}", "is refused"),
        indexed("index ends a name early", "model.safetensors\0.bin", "is refused"),
        indexed("index names its own directory", ".", "is refused"),
        indexed("index names nothing", "", "is refused"),
        indexed("index names 5,000 characters", "x" * 5000, "is refused"),
        indexed("index names a pickle", "pytorch_model.bin", "pickle"),
        indexed("index names itself", "model.safetensors.index.json", "not a safetensors file"),
        indexed("shard lacks its tensor", shard, "lacks it", make=lambda path: path.write_bytes(with_length("{}"))),
        indexed("shard is a FIFO", shard, "a FIFO", SourceError, os.mkfifo),
        indexed("shard is a directory", shard, "a directory", IsADirectoryError, Path.mkdir),
        indexed("shard is a link to a device", shard, "device", SourceError, lambda path: path.symlink_to("/dev/zero")),
        indexed("shard is a link to itself", shard, "opened", SourceError, lambda path: path.symlink_to(path)),
        indexed("shard is a link to nothing", shard, "link", FileNotFoundError, lambda path: path.symlink_to("gone")),
    ]


def file_attacks() -> list[Attack]:
    """Those of one file."""
    return [*lengths(), *json_tricks(), *ranges()]


def attacks() -> list[Attack]:
    """All of them."""
    return [*file_attacks(), *indices()]


def main(directory: Path) -> None:
    """Write every attack into a directory of its own."""
    for attack in attacks():
        place = directory / attack.name.replace(" ", "_").replace(",", "")
        place.mkdir(parents=True)
        expected = "opens" if attack.error is None else attack.error.__name__
        print(f"{expected:20} {attack.write(place)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
