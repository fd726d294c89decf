"""What the commands print where a terminal is not UTF-8, or a path no text; and how a bug ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import streamload._verify as verifying
from streamload.cli import main

if TYPE_CHECKING:
    from pathlib import Path

ODD = os.fsdecode(b"caf\xe9 \x1b[31m\xff")


def run(*arguments: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "streamload", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment)


@pytest.fixture(params=["plain", ODD], ids=["plain", "odd"])
def path(request, tmp_path, write) -> Path:
    """A file in a directory whose name may be no text."""
    (tmp_path / request.param).mkdir()
    return write(tmp_path / request.param / "model.safetensors", "a\N{SNOWMAN}", "b")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_every_terminal_is_told(path, encoding):
    for arguments in (("inspect", "--tensors", path), ("plan", path), ("manifest", path), ("verify", path)):
        done = run(*arguments, encoding=encoding)
        assert (done.returncode, done.stderr) == (0, b""), arguments
        assert b"\x1b" not in done.stdout
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    done = run("verify", path, encoding=encoding)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"\x1b" not in done.stdout
    assert "\N{EN DASH}".encode() in done.stdout if encoding == "utf-8" else b"-" in done.stdout
    done = run("verify", path.parent / "missing", encoding=encoding)
    assert done.returncode == 2
    assert b"no such file" in done.stderr
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_the_dash_is_plain_where_the_terminal_is(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a")
    assert CliRunner().invoke(main, ["manifest", str(path)]).exit_code == 0
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    nbytes = path.stat().st_size
    for charset, dash in (("utf-8", "\N{EN DASH}"), ("latin-1", "-"), ("ascii", "-")):
        result = CliRunner(charset=charset).invoke(main, ["verify", str(path)])
        assert result.exit_code == 1
        assert f"{nbytes - 4}{dash}{nbytes}" in result.output


def test_a_bug_is_no_verdict_and_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*arguments: object, **fields: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(verifying, "verify", broken)
    result = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError: a bug" in result.stderr


def test_a_closed_pipe_is_no_verdict(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a")
    assert CliRunner().invoke(main, ["manifest", str(path)]).exit_code == 0
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "streamload", "verify", str(path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_manifest_over_a_fifo_is_one_line_and_exit_code_2(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a")
    os.mkfifo(tmp_path / "fifo")
    result = CliRunner().invoke(main, ["manifest", "--manifest", str(tmp_path / "fifo"), str(path)])
    assert result.exit_code == 2
    assert "is not a regular file" in result.stderr
    assert result.stderr.count("\n") == 1
