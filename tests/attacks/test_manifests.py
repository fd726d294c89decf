"""Every hostile manifest beside a good checkpoint is refused with its typed error, and nothing stays open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import streamload
from streamload._checksums import MANIFEST_NAME, known_sums
from streamload._verify import verify
from streamload.errors import FormatError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = '{"format": "streamload-checksums", "version": 1, "algorithm": "crc32c", "shards": '


@dataclass(frozen=True)
class Attack:
    """One hostile manifest: what it tries, how it is made, what it must end in."""

    name: str
    write: Callable[[Path], object]
    error: type[Exception]
    says: str


def text(name: str, content: str | bytes, says: str) -> Attack:
    """An attack by a file's content."""
    data = content.encode() if isinstance(content, str) else content
    return Attack(name, lambda path: path.write_bytes(data), FormatError, says)


def cut_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ATTACKS = [
    text("empty", b"", "not valid JSON"),
    text("binary", bytes(range(256)), "not valid JSON"),
    text("a byte order mark", b"\xef\xbb\xbf{}", "not valid JSON"),
    text("deep nesting", "[" * 1_000_000, "nested too deeply"),
    text("deep nesting where a shard should be", HEAD + '{"x": ' + "[" * 100_000, "nested too deeply"),
    text("a number without end", HEAD + '{"x": {"nbytes": ' + "9" * 100_000 + "}}}", "not valid JSON"),
    text("a path out of the directory", HEAD + '{"../../etc/passwd": {}}}', "refused"),
    text("an absolute path", HEAD + '{"/etc/passwd": {}}}', "refused"),
    text("the same shard twice", HEAD + '{"x": {}, "x": {}}}', "twice"),
    text("the same shard twice, once escaped", HEAD + '{"x": {}, "\\u0078": {}}}', "twice"),
    text("a lone surrogate", HEAD + '{"\\ud800": {}}}', "not valid JSON"),
    text("a long name", HEAD + '{"' + "x" * 1_000_000 + '": {}}}', "refused"),
    text("another format's file", '{"weight_map": {}}', "expected format"),
    Attack("larger than any manifest", cut_sparse, FormatError, "are allowed"),
    Attack("a FIFO that nobody writes", os.mkfifo, SourceError, "a FIFO"),
    Attack("a device without end", lambda path: path.symlink_to("/dev/zero"), SourceError, "a character device"),
    Attack("a link to itself", lambda path: path.symlink_to(path), SourceError, "symbolic link"),
    Attack("a link to nothing", lambda path: path.symlink_to("nothing"), FileNotFoundError, "streamload manifest"),
    Attack("a directory", lambda path: path.mkdir(), IsADirectoryError, "got a directory"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_hostile_manifest_ends_in_its_typed_error(attack, tmp_path, write, open_descriptors):
    model = write(tmp_path / "model.safetensors", "a")
    attack.write(tmp_path / MANIFEST_NAME)
    before = open_descriptors()
    with pytest.raises(attack.error) as caught:
        verify(str(model))
    assert attack.says in str(caught.value)
    assert len(str(caught.value)) < 2000
    with streamload.open(model) as checkpoint, pytest.raises(attack.error):
        known_sums(checkpoint)
    assert open_descriptors() == before
