"""What must hold for any bytes whatever: the parsers either refuse with `FormatError` or return checked records.

Shared by the fuzzers and by the test that replays the corpus. Where safetensors is installed it is the referee: it
must accept whatever our header parser accepts.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from streamload._checkpoint import group_layers
from streamload._format import (
    DTYPE_BITS,
    ModelList,
    format_manifest,
    format_models,
    header_nbytes,
    parse_header,
    parse_index,
    parse_manifest,
    parse_models,
)
from streamload._format._header import parse_any_header
from streamload._format._index import parse_any_index
from streamload.errors import FormatError

try:
    import safetensors
except ImportError:
    safetensors = None

MAX_TEXT = 2000  # longest error message: it must stay readable whatever the input
MAX_DATA_NBYTES = 1 << 16  # largest data section to build for the referee


def check_header(data: bytes) -> None:
    """Check a file as it is, then its JSON again under a length and file size that fit."""
    _check_file(data, len(data))
    text = data[8:]
    if text[:1] == b"{":
        declared = int.from_bytes(data[:8], "little")
        text = text[:declared] if declared <= len(text) else text
        ends = [int(end) for end in re.findall(rb"(\d{1,15})\s*\]", text)] or [0]
        _check_file(len(text).to_bytes(8, "little") + text, 8 + len(text) + max(ends))


def check_index(data: bytes) -> None:
    """Check an index file."""
    try:
        index = parse_index(data, url="index")
    except FormatError as error:
        _check_text(error)
        return
    assert index == parse_any_index(data, url="index"), "what the native core reads is what is written"
    for name, shard in index.weight_map.items():
        assert (name + shard).encode()
        path = PurePosixPath("/models") / shard
        assert path.is_relative_to("/models")
        assert path != PurePosixPath("/models")
        assert not {"..", "."}.intersection(path.parts)
        assert "\0" not in name + shard


def check_manifest(data: bytes) -> None:
    """Check a manifest of checksums."""
    try:
        manifest = parse_manifest(data, url="manifest")
    except FormatError as error:
        _check_text(error)
        return
    names = [name for shard in manifest.shards.values() for name in shard.tensors]
    assert len(set(names)) == len(names)
    for name, shard in manifest.shards.items():
        assert (PurePosixPath("/models") / name).is_relative_to("/models")
        assert ".." not in name.split("/")
        assert 0 <= shard.crc32c < 1 << 32
        assert all(0 <= tensor.crc32c < 1 << 32 for tensor in shard.tensors.values())
    assert parse_manifest(format_manifest(manifest).encode(), url="again") == manifest


def check_models(data: bytes) -> None:
    """Check a list of models."""
    try:
        models = parse_models(data, url="models").models
    except FormatError as error:
        _check_text(error)
        return
    for name, model in models.items():
        for path in (name, *(f"{name}/{file}" for file in (model.files or {}))):
            assert (PurePosixPath("/models") / path).is_relative_to("/models")
            assert not {"..", ".", ""}.intersection(path.split("/"))
            assert "\0" not in path
        assert model.sources
        assert all(len(sha256) == 64 for sha256 in model.sha256.values())
    written = format_models(ModelList(models))
    again = parse_models(written.encode(), url="again").models
    assert set(again) == set(models)
    assert format_models(ModelList(again)) == written


def _check_file(prefix: bytes, file_nbytes: int) -> None:
    try:
        header = parse_header(prefix, url="file", file_nbytes=file_nbytes)
    except FormatError as error:
        _check_text(error)
        return
    text, given = prefix[8 : header.nbytes], {"nbytes": header.nbytes, "file_nbytes": file_nbytes, "shard": 0}
    assert header == parse_any_header(text, url="file", **given), "what the native core reads is what is written"
    at = header_nbytes(prefix[:8], url="file", file_nbytes=file_nbytes)
    for tensor in header.tensors:
        assert tensor.name.encode() is not None
        assert tensor.start == at <= tensor.end
        bits = DTYPE_BITS[tensor.dtype]
        for length in tensor.shape:
            assert type(length) is int
            assert length >= 0
            bits *= length
        assert bits == 8 * tensor.nbytes
        at = tensor.end
    assert at == file_nbytes
    assert all(type(text) is str for pair in header.metadata.items() for text in pair)
    layers = group_layers(header.tensors)
    assert sum(len(layer.tensors) for layer in layers) == len(header.tensors)
    if safetensors is not None and file_nbytes - header.nbytes <= MAX_DATA_NBYTES:
        whole = prefix[: header.nbytes] + bytes(file_nbytes - header.nbytes)
        names = sorted(name for name, _ in safetensors.deserialize(whole))
        assert names == sorted(tensor.name for tensor in header.tensors)


def _check_text(error: FormatError) -> None:
    assert len(str(error)) < MAX_TEXT, "an error's text is bounded"
    assert str(error).encode() is not None
