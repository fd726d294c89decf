"""Progress of a benchmark on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import pty

import pytest
from click.testing import CliRunner

from streamload import _native
from streamload.bench._progress import SILENT
from streamload.cli import main
from streamload.cli._progress import BenchScreen


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def drained(leader: int) -> str:
    """Return all that was written to a terminal which nobody has open any longer: one read may give a part of it."""
    parts = []
    with contextlib.suppress(OSError):  # EIO: that was all
        while part := os.read(leader, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode()


def test_without_a_terminal_there_are_plain_lines_with_the_time_left():
    stream, clock = io.StringIO(), Clock()
    with BenchScreen(stream, clock=clock) as screen, screen.stage("measuring", 40, "run") as advance:
        for _ in range(20):
            clock.seconds += 1.5
            advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "streamload: measuring: 40 runs"
    assert lines[1] == "streamload: measuring: 7 of 40, 0:50 left"  # 10.5 s for 7, and 33 are left
    assert len(lines) == 3
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_bytes_are_said_with_their_unit():
    stream, clock = io.StringIO(), Clock()
    with BenchScreen(stream, clock=clock).stage("file", 2_000_000_000, "B") as advance:
        clock.seconds += 10
        advance(500_000_000)
    assert stream.getvalue().splitlines() == [
        "streamload: file: 2.00 GB",
        "streamload: file: 500 MB of 2.00 GB, 0:30 left",
    ]


@pytest.mark.parametrize("ends", ["done", "interrupted"])
def test_on_a_terminal_there_is_a_bar_without_colours_that_goes_away(ends):
    leader, follower = pty.openpty()
    with open(follower, "w", encoding="utf-8") as stream, BenchScreen(stream) as screen:  # noqa: PTH123 - a descriptor
        try:
            with screen.stage("measuring", 4, "run") as advance:
                advance()
                if ends == "interrupted":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    shown = drained(leader)
    os.close(leader)
    assert "measuring" in shown
    assert "left" in shown
    assert "\x1b[3" not in shown  # SGR colours
    assert shown.endswith("\r")
    assert shown.split("\r")[-2].strip() == ""  # what was drawn last are blanks


def test_nobody_needs_to_watch():
    with SILENT.stage("measuring", 3) as advance:
        assert advance() is None
        assert advance(2) is None


def test_a_debug_build_is_refused_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(_native, "build_type", "debug")
    for command in ("link", "storage", "compare", "engine", "overlap", "from_pretrained", "source"):
        done = CliRunner().invoke(main, ["bench", command, "--json", str(tmp_path / "out.json")])
        assert done.exit_code == 2
        assert "the native core is a debug build" in done.output
        assert done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["link", "storage", "compare", "engine", "overlap", "from_pretrained", "source"])
def test_benchmarks_share_their_options_and_refuse_a_folder_that_is_not_there(command):
    words = CliRunner().invoke(main, ["bench", command, "--help"]).output
    assert "--repeat" in words
    assert "--json" in words
    done = CliRunner().invoke(main, ["bench", command, "--json", "nowhere/out.json"])
    assert done.exit_code == 2
    assert "no such folder" in done.output


@pytest.mark.parametrize("command", ["compare", "engine", "overlap", "from_pretrained", "source"])
def test_benchmarks_of_loads_refuse_a_folder_for_their_timelines_that_is_not_there(command):
    assert "--trace" in CliRunner().invoke(main, ["bench", command, "--help"]).output
    done = CliRunner().invoke(main, ["bench", command, "--trace", "nowhere/trace.json"])
    assert done.exit_code == 2
    assert "--trace nowhere/trace.json: there is no such folder" in done.output
    assert done.stdout.count("\n") == 0


def test_many_tensors_have_no_timelines(tmp_path):
    done = CliRunner().invoke(main, ["bench", "engine", "--many-tensors", "--trace", str(tmp_path / "trace.json")])
    assert done.exit_code == 2
    assert "leave out --trace" in done.output
