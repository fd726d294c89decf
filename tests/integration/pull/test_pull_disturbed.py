"""Pulls that something disturbs: interruptions, other versions, wrong bytes, other pulls, full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import streamload
from streamload._pull import verify_models
from streamload._pull._partial import WorkFiles
from streamload._sources import open_source

from .conftest import contents, names_in, weights_of
from .server import PIECE_BYTES

OPTIONS = streamload.StreamOptions(chunk_bytes=64 << 10)
SHARD = "model-00002-of-00003.safetensors"


class Interrupting:
    """Stop the connection of every body once the server has sent so many bytes."""

    def __init__(self, server, after: int) -> None:
        self._server = server
        self._end = server.sent + after

    def __call__(self, path: str, sent: int) -> None:
        if sent >= self._end:
            raise ConnectionResetError


def interrupted_pull(server, index, directory, after):
    """A pull whose server breaks off for good."""
    server.before_piece = Interrupting(server, after)
    # Time enough for what was sent to arrive, on a busy machine, before the pull ends.
    options = streamload.StreamOptions(chunk_bytes=64 << 10, retry_seconds=1.0, stall_seconds=30)
    with pytest.raises(OSError, match="llama"):
        streamload.pull(index, directory, options=options)
    server.before_piece = lambda path, sent: None


@pytest.mark.slow
def test_what_has_arrived_is_not_asked_for_again(server, index, files, tmp_path):
    total = sum(map(len, weights_of(files).values()))
    interrupted_pull(server, index, tmp_path, total // 2)
    whole = {piece for piece in server.asked if piece[0].endswith(".safetensors")}
    server.asked.clear()
    done = streamload.pull(index, tmp_path, options=OPTIONS)
    assert contents(tmp_path / "llama") == weights_of(files)
    assert done.fetched <= total - sum(end - start for _, start, end in whole)
    again = [piece for piece in server.asked if piece[2] - piece[1] > 1]
    assert not [
        (piece, old)
        for piece in again
        for old in whole
        if piece[0] == old[0] and max(piece[1], old[1]) < min(piece[2], old[2])
    ]


@pytest.mark.slow
def test_an_object_that_changed_between_two_pulls_is_pulled_anew_and_that_is_said(server, index, files, tmp_path):
    interrupted_pull(server, index, tmp_path, sum(map(len, weights_of(files).values())) // 2)
    begun = [path.name for path in (tmp_path / ".streamload-pull" / "llama").glob("*.partial")]
    assert begun
    changed = {name: data[:-1] + b"!" for name, data in weights_of(files).items() if name.endswith("tensors")}
    server.objects |= {f"llama/{name}": data for name, data in changed.items()}
    done = streamload.pull(index, tmp_path, options=OPTIONS)
    assert contents(tmp_path / "llama") == {**weights_of(files), **changed}
    assert any("starting over" in note for note in done.notes)


def test_an_object_that_changes_under_the_pull_is_opened_again_and_never_mixed(server, index, files, tmp_path):
    new = files[SHARD][:-1000] + bytes(1000)
    once = threading.Event()

    def change(path: str, sent: int) -> None:
        if SHARD in path and sent > 1_000_000 and not once.is_set():
            once.set()
            server.objects[f"llama/{SHARD}"] = new
            raise ConnectionResetError

    server.before_piece = change
    done = streamload.pull(index, tmp_path, options=OPTIONS)
    assert once.is_set()
    assert contents(tmp_path / "llama") == {**weights_of(files), SHARD: new}
    assert any("changed while it was pulled" in note for note in done.notes)
    assert verify_models(tmp_path).right


def test_an_object_that_keeps_changing_is_an_error(server, index, files, tmp_path):
    def change(path: str, sent: int) -> None:
        if SHARD in path and sent % 7 == 0:
            server.objects[f"llama/{SHARD}"] = files[SHARD][:-8] + random.randbytes(8)
            raise ConnectionResetError

    server.before_piece = lambda path, sent: change(path, 0)
    with pytest.raises(streamload.SourceError):
        streamload.pull(index, tmp_path, options=streamload.StreamOptions(chunk_bytes=64 << 10, retry_seconds=0.2))
    assert SHARD not in contents(tmp_path)


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_flipped_byte_is_found_by_a_known_sha256_and_nothing_of_it_is_kept(server, files, tmp_path):
    url = f"{server.url}/llama/{SHARD}"
    known = hashlib.sha256(files[SHARD]).hexdigest()
    server.objects[f"llama/{SHARD}"] = flipped(files[SHARD])
    with pytest.raises(streamload.ChecksumError, match=known):
        streamload.pull({"llama": {"source": url, "sha256": known}}, tmp_path)
    assert not [path for path in contents(tmp_path) if path.endswith((".safetensors", ".partial"))]
    server.objects[f"llama/{SHARD}"] = files[SHARD]
    streamload.pull({"llama": {"source": url, "sha256": known}}, tmp_path)
    assert contents(tmp_path / "llama") == {SHARD: files[SHARD]}


def test_bytes_flipped_on_the_way_once_are_fetched_again(server, files, tmp_path, monkeypatch):
    url = f"{server.url}/llama/{SHARD}"
    known = hashlib.sha256(files[SHARD]).hexdigest()
    put, left = WorkFiles.put, [1]

    def damaged(self, offset, data):
        put(self, offset, memoryview(flipped(bytes(data))) if left.pop() else data) if left else put(self, offset, data)

    monkeypatch.setattr(WorkFiles, "put", damaged)
    done = streamload.pull({"llama": {"source": url, "sha256": known}}, tmp_path)
    assert contents(tmp_path / "llama") == {SHARD: files[SHARD]}
    assert any("fetching it again" in note for note in done.notes)


def test_a_sha256_that_the_store_tells_is_held_against_the_bytes(server, files, tmp_path, monkeypatch):
    class Telling:
        """A store that knows sums, as the Hub does."""

        url = "hf://org/llama"

        def names(self, *, deep: bool = False) -> set[str]:
            return {SHARD}

        def open(self, name: str, *, head_bytes: int) -> object:
            return open_source(f"{server.url}/llama/{name}")

        def sha256_of(self, name: str, etag: str) -> str:
            return hashlib.sha256(files[name]).hexdigest()

    monkeypatch.setattr("streamload._pull._places.open_store", lambda *arguments, **fields: Telling())
    server.objects[f"llama/{SHARD}"] = flipped(files[SHARD])
    with pytest.raises(streamload.ChecksumError, match="SHA-256"):
        streamload.pull("hf://org/llama", tmp_path)
    server.objects[f"llama/{SHARD}"] = files[SHARD]
    streamload.pull("hf://org/llama", tmp_path)
    assert contents(tmp_path / "llama") == {SHARD: files[SHARD]}


@pytest.mark.parametrize("page", [b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\noid", b""])
def test_what_is_no_safetensors_file_is_not_published_as_one(server, tmp_path, page):
    server.objects["llama/x.safetensors"] = page
    with pytest.raises(streamload.FormatError, match=r"x\.safetensors"):
        streamload.pull(f"{server.url}/llama/x.safetensors", tmp_path)
    assert not (tmp_path / "llama").exists() or not list((tmp_path / "llama").iterdir())


def test_a_file_of_the_old_version_stays_until_the_new_one_is_whole_and_the_list_says_so(
    server, index, files, tmp_path
):
    streamload.pull(index, tmp_path)
    new = files[SHARD][:-1] + b"!"
    server.objects[f"llama/{SHARD}"] = new
    seen = []

    def look(path: str, sent: int) -> None:
        seen.append((tmp_path / "llama" / SHARD).read_bytes())

    server.before_piece = look
    streamload.pull(index, tmp_path)
    assert set(seen) == {files[SHARD]}
    assert (tmp_path / "llama" / SHARD).read_bytes() == new
    assert verify_models(tmp_path).right


def test_a_model_half_replaced_is_listed_as_incomplete(server, index, files, tmp_path, monkeypatch):
    streamload.pull(index, tmp_path)
    server.objects |= {f"llama/{name}": data + b"\n" for name, data in files.items() if name.endswith(".json")}
    server.objects[f"llama/{SHARD}"] = files[SHARD][:-1] + b"!"
    publish = WorkFiles.publish

    def killed(self, record):
        publish(self, record)
        raise RuntimeError("killed here")

    monkeypatch.setattr(WorkFiles, "publish", killed)
    with pytest.raises(RuntimeError):
        streamload.pull(index, tmp_path)
    assert json.loads((tmp_path / "models.json").read_text())["models"]["llama"]["complete"] is False
    assert "not finished" in verify_models(tmp_path).faults[0].text
    monkeypatch.setattr(WorkFiles, "publish", publish)
    streamload.pull(index, tmp_path)
    assert verify_models(tmp_path).right


def test_two_pulls_into_one_directory_share_the_work(server, index, files, tmp_path):
    done = []
    both = threading.Barrier(2)

    def pull() -> None:
        both.wait()
        done.append(streamload.pull(index, tmp_path, options=OPTIONS))

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert contents(tmp_path / "llama") == weights_of(files)
    assert verify_models(tmp_path).right
    whole = sum(map(len, weights_of(files).values()))
    assert sum(pulled.fetched for pulled in done) <= whole + 3 * (256 << 10)
    assert names_in(tmp_path) == {"llama", "models.json"}


def test_a_pull_that_waits_for_another_says_so_and_can_be_interrupted(server, index, tmp_path):
    with WorkFiles(tmp_path, f"llama/{SHARD}") as held:
        held.lock(threading.Event(), lambda: None)

        def interrupt(progress) -> None:
            if any("waiting for another pull" in note for note in progress.notes):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            streamload.pull(index, tmp_path, report=interrupt)
    streamload.pull(index, tmp_path)


def test_a_disk_that_is_too_small_is_said_before_a_byte_is_fetched(server, index, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    with pytest.raises(OSError, match=r"are needed and 41\.0 kB free") as caught:
        streamload.pull(index, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert not [piece for piece in server.asked if piece[2] - piece[1] > 256 << 10]


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_and_the_pull_goes_on_once_there_is_room(server, index, files, tmp_path, pulling):
    """In a file system of 4 MB of its own, where this user may make one."""
    script = (
        "mount -t tmpfs -o size=4m tmpfs {0} && "
        "{1} -c 'import os, sys; os.statvfs = lambda path: os.statvfs_result([4096] * 10 + [0]);"
        'sys.argv[0] = "streamload"; from streamload.cli import main; main()\' pull {2} --to {0}; '
        "echo code $?; cp -r {0}/.streamload-pull {3}/"
    )
    disk = tmp_path / "disk"
    kept = tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    command = ["unshare", "-rm", "sh", "-c", script.format(disk, sys.executable, index, kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this user may not mount a file system of their own")
    assert "code 1" in done.stdout, done.stdout + done.stderr
    assert "No space left on device; the bytes that are there stay" in done.stderr
    server.asked.clear()
    (kept / ".streamload-pull").chmod(0o700)
    again = streamload.pull(index, kept)
    assert contents(kept / "llama") == weights_of(files)
    assert again.fetched < again.nbytes


def test_ctrl_c_keeps_what_has_arrived(server, index, files, tmp_path, pulling):
    half = sum(map(len, weights_of(files).values())) // 2
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str, sent: int) -> None:
        if sent > half:
            reached.set()
            go_on.wait(30)

    server.before_piece = hold
    process = pulling("pull", index, "--to", tmp_path, "--json")
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    go_on.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert "what has arrived is kept" in err
    assert "Traceback" not in err
    server.before_piece = lambda path, sent: None
    done = streamload.pull(index, tmp_path)
    assert done.fetched < done.nbytes
    assert contents(tmp_path / "llama") == weights_of(files)


@pytest.mark.slow
def test_killed_at_random_points_it_goes_on_and_never_publishes_a_wrong_file(
    server, index, files, tmp_path, pulling, request
):
    rounds = request.config.getoption("--kills")
    chance = random.Random(20261127)
    right = weights_of(files)
    total = sum(map(len, right.values()))
    for number in range(rounds):
        directory = tmp_path / str(number)
        server.sent = 0
        at = chance.randrange(total + 8 * PIECE_BYTES)
        process = pulling("pull", index, "--to", directory, "--quiet")

        def kill(path: str, sent: int, process=process, at=at) -> None:
            if sent >= at:
                os.kill(process.pid, signal.SIGKILL)

        server.before_piece = kill
        process.wait(timeout=60)
        published = contents(directory / "llama") if directory.exists() else {}
        assert {name: right[name] for name in published} == published
        server.before_piece = lambda path, sent: None
        streamload.pull(index, directory, options=OPTIONS)
        assert contents(directory / "llama") == right
        assert names_in(directory) == {"llama", "models.json"}
        for path in sorted(directory.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()


STEPS = ("open", "replace", "fsync", "chmod", "rename", "unlink")


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_call_that_changes_names_it_goes_on(server, index, files, tmp_path, pulling, step):
    """Ends the process right before its k-th call of a kind, for k up to where the pull ends by itself."""
    program = (
        "import os, sys, signal\n"
        "step, number = sys.argv[1], int(sys.argv[2])\n"
        "real, seen = getattr(os, step), [0]\n"
        "def counted(*arguments, **fields):\n"
        "    if 'pulled' in str(arguments[0]) or isinstance(arguments[0], int):\n"
        "        seen[0] += 1\n"
        "        if seen[0] == number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*arguments, **fields)\n"
        "setattr(os, step, counted)\n"
        "import streamload\n"
        "streamload.pull(sys.argv[3], sys.argv[4])\n"
    )
    small = {f"small/{name}": files[name] for name in (SHARD, "config.json")}
    server.objects |= small
    urls = {"small": {"source": f"{server.url}/small/", "files": {SHARD: {}, "config.json": {}}}}
    program = program.replace("sys.argv[3], sys", f"{urls!r}, sys")
    for number in range(1, 13):
        directory = tmp_path / f"pulled-{number}"
        done = subprocess.run([sys.executable, "-c", program, step, str(number), "", str(directory)], timeout=60)
        published = contents(directory / "small") if directory.exists() else {}
        assert {name: files[name] for name in published} == published
        streamload.pull(urls, directory)
        assert contents(directory / "small") == {name: files[name] for name in (SHARD, "config.json")}
        assert names_in(directory) == {"small", "models.json"}
        assert verify_models(directory).right
        if done.returncode == 0:
            break


def test_a_record_that_is_no_record_is_as_none(server, index, files, tmp_path):
    work = tmp_path / ".streamload-pull" / "llama"
    work.mkdir(parents=True)
    for name, text in ((SHARD, "{"), ("model-00001-of-00003.safetensors", '{"nbytes": 1}')):
        Path(work, f"{name}.object").write_text(text)
        Path(work, f"{name}.partial").write_bytes(b"x" * 100)
        Path(work, f"{name}.partial.journal").write_bytes(b"nonsense" * 20)
    streamload.pull(index, tmp_path)
    assert contents(tmp_path / "llama") == weights_of(files)
