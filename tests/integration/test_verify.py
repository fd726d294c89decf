"""`streamload manifest` and `streamload verify`: every wrong byte is found and named."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import google_crc32c
import pytest
from click.testing import CliRunner
from safetensors import safe_open

import streamload
import streamload._verify as verifying
from streamload._checksums import MANIFEST_NAME, known_sums
from streamload._engine import Ticket
from streamload._verify import make_manifest, verify
from streamload.cli import main
from streamload.errors import FormatError
from streamload.options import StreamOptions
from streamload.testing import LlamaShape, make_checkpoint

SHAPE = LlamaShape(layers=2, hidden=16, heads=4, kv_heads=2, intermediate=32, vocab=24, dtype="BF16")


class SummingEngine:
    """Sum a plan's pieces as the copy engine does."""

    def __init__(self, device: object, options: StreamOptions | None = None) -> None:
        self.options = options or StreamOptions()

    def __enter__(self):
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def submit(self, plan, sources):
        crcs: list[int | None] = [None] * len(plan.expected)
        for read, at, nbytes, key in zip(*[iter(plan.sums)] * 4, strict=True):
            source, offset = plan.reads[5 * read : 5 * read + 2]
            piece = memoryview(bytearray(nbytes))
            assert sources[source].read_into(offset + at, piece) == nbytes
            crcs[key] = google_crc32c.extend(crcs[key] or 0, bytes(piece))
        return SummingTicket(crcs)


class SummingTicket:
    def __init__(self, crcs: list[int | None]) -> None:
        self.sums = lambda: crcs

    def __enter__(self):
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> None:
        pass


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Put the engine above in the place of one that cannot sum."""
    if not hasattr(Ticket, "sums"):
        monkeypatch.setattr(verifying, "CopyEngine", SummingEngine)


@pytest.fixture
def directory(tmp_path):
    """A sharded checkpoint with its manifest."""
    path = Path(make_checkpoint(tmp_path / "model", SHAPE, shards=2))
    make_manifest(str(path))
    return path


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    path.write_bytes(data)


def first_shard(directory: Path) -> Path:
    return min(directory.glob("*.safetensors"))


def test_the_manifest_holds_the_sums_of_files_and_tensors(directory):
    manifest = json.loads((directory / MANIFEST_NAME).read_text())
    assert sorted(manifest["shards"]) == sorted(path.name for path in directory.glob("*.safetensors"))
    for name, shard in manifest["shards"].items():
        data = (directory / name).read_bytes()
        assert (shard["nbytes"], int(shard["crc32c"], 16)) == (len(data), google_crc32c.value(data))
        with safe_open(directory / name, "numpy") as file:
            assert sorted(shard["tensors"]) == sorted(file.keys())
    with streamload.open(directory) as checkpoint:
        for name, crc in known_sums(checkpoint).items():
            info = checkpoint[name]
            data = Path(checkpoint.shards[info.shard].url).read_bytes()[info.start : info.end]
            assert crc == google_crc32c.value(data)


def test_an_untouched_checkpoint_is_right(directory):
    verdict = verify(str(directory))
    assert verdict.right
    assert (verdict.shards, verdict.tensors) == (2, len(SHAPE.tensors()))
    assert verdict.nbytes == sum(path.stat().st_size for path in directory.glob("*.safetensors"))


@pytest.mark.parametrize("options", [StreamOptions(chunk_bytes=65536), None])
def test_chunks_of_any_size_sum_to_the_same(directory, options):
    assert verify(str(directory), options=options).right


def test_a_flipped_bit_anywhere_is_found_and_named(directory):
    shard = first_shard(directory)
    good = shard.read_bytes()
    with streamload.open(directory) as checkpoint:
        tensors = [info for info in checkpoint.values() if info.shard == 0]
    data_start = min(info.start for info in tensors)
    for at in [*range(0, data_start, 37), *range(data_start, len(good), 997), len(good) - 1]:
        flip(shard, at)
        verdict = verify(str(directory))
        assert verdict.faults, f"bit of byte {at}"
        if at >= data_start:
            (fault,) = verdict.faults
            (expected,) = [info for info in tensors if info.start <= at < info.end]
            assert (fault.shard, fault.tensor) == (shard.name, expected.name)
            assert (fault.start, fault.end) == (expected.start, expected.end)
            assert "expected" in fault.text
        shard.write_bytes(good)
    assert verify(str(directory)).right


def test_a_changed_header_over_right_tensors_is_found(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a", metadata={"format": "pt"})
    make_manifest(str(path))
    path.write_bytes(path.read_bytes().replace(b'"pt"', b'"tf"'))
    (fault,) = verify(str(path)).faults
    assert (fault.tensor, fault.start, fault.end) == (None, 0, path.stat().st_size - 4)
    assert "header" in fault.text


def test_a_truncated_shard_is_a_fault(directory):
    shard = first_shard(directory)
    shard.write_bytes(shard.read_bytes()[:-1])
    (fault,) = verify(str(directory)).faults
    assert "cut off" in fault.text
    assert shard.name in fault.text


def test_a_missing_shard_is_a_fault(directory):
    first_shard(directory).unlink()
    (fault,) = verify(str(directory)).faults
    assert first_shard(directory).name.replace("00002-of", "00001-of") in fault.text


def test_tensors_and_shards_that_came_or_went_are_faults(tmp_path, write):
    write(tmp_path / "x.safetensors", "a", "b")
    write(tmp_path / "y.safetensors", "c")
    make_manifest(str(tmp_path))
    write(tmp_path / "x.safetensors", "a", "d")
    (tmp_path / "y.safetensors").rename(tmp_path / "z.safetensors")
    found = {(fault.shard, fault.tensor): fault.text for fault in verify(str(tmp_path)).faults}
    assert set(found) == {
        ("x.safetensors", "b"),
        ("x.safetensors", "d"),
        ("y.safetensors", None),
        ("z.safetensors", None),
    }
    assert "not in the shard" in found["x.safetensors", "b"]
    assert "not in the manifest" in found["x.safetensors", "d"]


def test_another_dtype_over_the_same_bytes_is_a_fault(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a")
    make_manifest(str(path))
    path.write_bytes(path.read_bytes().replace(b'"U8"', b'"I8"'))
    (fault,) = verify(str(path)).faults
    assert fault.text == "I8 of shape [4], expected U8 of shape [4]"


def test_one_shard_is_held_to_its_own_part_of_the_manifest(directory):
    shard = first_shard(directory)
    verdict = verify(str(shard))
    assert verdict.right
    assert verdict.shards == 1
    other = max(directory.glob("*.safetensors"))
    flip(other, other.stat().st_size - 1)
    assert verify(str(shard)).right
    assert not verify(str(directory)).right
    shard.rename(directory / "unknown.safetensors")
    (fault,) = verify(str(directory / "unknown.safetensors")).faults
    assert fault.text == "this shard is not in the manifest"


def test_tensors_without_bytes_and_shards_without_tensors_are_right(tmp_path, write):
    write(tmp_path / "x.safetensors", "a", "b", nbytes=0)
    write(tmp_path / "y.safetensors")
    make_manifest(str(tmp_path))
    assert verify(str(tmp_path)).right
    shards = json.loads((tmp_path / MANIFEST_NAME).read_text())["shards"]
    assert shards["x.safetensors"]["tensors"]["a"]["crc32c"] == "00000000"


def test_a_manifest_may_stand_elsewhere(tmp_path, write):
    path = write(tmp_path / "model" / "model.safetensors", "a")
    elsewhere = tmp_path / "sums.json"
    assert make_manifest(str(path), manifest=str(elsewhere)).manifest == str(elsewhere)
    assert not (path.parent / MANIFEST_NAME).exists()
    assert verify(str(path), manifest=str(elsewhere)).right
    with pytest.raises(FileNotFoundError, match="streamload manifest"):
        verify(str(path))


def test_a_checkpoint_that_is_not_there_or_a_broken_manifest_gives_no_verdict(directory):
    manifest = str(directory / MANIFEST_NAME)
    with pytest.raises(FileNotFoundError, match="no such file"):
        verify(str(directory / "missing.safetensors"), manifest=manifest)
    flip(Path(manifest), 0)
    with pytest.raises(FormatError, match="not valid JSON"):
        verify(str(directory))


def test_no_file_stays_open(directory, open_descriptors):
    before = open_descriptors()
    assert verify(str(directory)).right
    first_shard(directory).unlink()
    assert not verify(str(directory)).right
    assert open_descriptors() == before


def test_verify_says_right_and_exits_with_0(directory):
    result = run("verify", directory)
    assert result.exit_code == 0
    assert result.output.startswith("right: ")
    assert "2 shards" in result.output
    assert "/s" in result.output


def test_verify_lists_what_is_wrong_and_exits_with_1(directory):
    shard = first_shard(directory)
    flip(shard, shard.stat().st_size - 1)
    with streamload.open(directory) as checkpoint:
        (info,) = [info for info in checkpoint.values() if info.shard == 0 and info.end == shard.stat().st_size]
    result = run("verify", directory)
    assert result.exit_code == 1
    assert result.output.startswith("wrong: 1 fault")
    for word in (shard.name, info.name, f"{info.start}–{info.end}", "expected"):
        assert word in result.output
    result = run("verify", "--json", directory)
    assert result.exit_code == 1
    verdict = json.loads(result.output)
    assert verdict["right"] is False
    assert [fault["tensor"] for fault in verdict["faults"]] == [info.name]
    assert verdict["bytes_per_second"] > 0


def test_a_long_list_is_cut_for_a_person_only(tmp_path, write):
    names = [f"t{number}" for number in range(60)]
    path = write(tmp_path / "model.safetensors", *names)
    make_manifest(str(path))
    data = path.read_bytes()
    path.write_bytes(data[:-240] + bytes(240))
    assert "and 10 more; --json lists all" in run("verify", path).output
    assert len(json.loads(run("verify", "--json", path).output)["faults"]) == 60


def test_a_name_cannot_write_to_the_terminal(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a\x1b[31m\nb")
    make_manifest(str(path))
    flip(path, path.stat().st_size - 1)
    result = run("verify", path)
    assert "\x1b" not in result.output
    assert "wrong: 1 fault" in result.output


def test_without_a_manifest_verify_says_how_to_make_one_and_exits_with_2(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a")
    result = run("verify", path)
    assert result.exit_code == 2
    assert f"streamload manifest {path}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert run("manifest", path).exit_code == 0
    assert run("verify", path).exit_code == 0


@pytest.mark.parametrize("command", ["manifest", "verify"])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, command):
    for path in (tmp_path / "missing", tmp_path, "s3://bucket/model", ""):
        result = run(command, path)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1


def test_a_manifest_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path, write):
    path = write(tmp_path / "model.safetensors", "a")
    result = run("manifest", "--manifest", tmp_path / "missing" / "sums.json", path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["manifest", "verify"])
def test_ctrl_c_ends_with_one_line_and_130(directory, monkeypatch, open_descriptors, command):
    def interrupt(ticket: object, nbytes: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verifying, "_wait", interrupt)
    written = (directory / MANIFEST_NAME).stat()
    before = open_descriptors()
    result = run(command, directory)
    assert result.exit_code == 130
    assert result.stderr == "streamload: interrupted\n"
    assert open_descriptors() == before
    assert (directory / MANIFEST_NAME).stat() == written


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_shows_progress_on_a_terminal_only(monkeypatch, terminal):
    class Stderr(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    class SlowTicket:
        waits = 0

        def wait(self, timeout: float | None = None) -> None:
            self.waits += 1
            if timeout is not None and self.waits < 3:
                raise TimeoutError

        def stats(self) -> object:
            return SimpleNamespace(bytes_read=40 * self.waits)

    stderr = Stderr()
    monkeypatch.setattr(sys, "stderr", stderr)
    verifying._wait(SlowTicket(), 100)
    assert ("reading" in stderr.getvalue()) == terminal
    assert bool(stderr.getvalue()) == terminal


def test_manifest_and_verify_need_no_extra():
    import subprocess

    program = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'safetensors', 'google_crc32c'): sys.modules[name] = None\n"
        "import streamload._verify\n"
        "from streamload.cli import main\n"
        "main(['verify', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
