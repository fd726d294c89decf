"""`streamload pull` and `verify` as scripts and people meet them: exit codes, JSON, progress, secrets."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from streamload._pull import PullProgress
from streamload._pull._partial import WorkFiles
from streamload.cli import main
from streamload.cli._progress import PullScreen

from .conftest import contents, weights_of

SHARD = "model-00002-of-00003.safetensors"
SECRET = "TOPSECRETVALUE"


def run(*arguments: object):
    """Run a command in this process; a bug's traceback is not hidden."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_it_says_what_it_did_in_a_few_lines(index, files, tmp_path):
    result = run("pull", index, "--to", tmp_path)
    assert result.exit_code == 0
    assert "1 model in" in result.stdout
    assert "5.60 MB" in result.stdout
    assert result.stderr == ""
    assert contents(tmp_path / "llama") == weights_of(files)
    again = run("pull", index, "--to", tmp_path)
    assert "0 B fetched" in again.stdout
    assert "5.60 MB were here" in again.stdout


def test_json_is_one_object_with_every_file(index, files, tmp_path):
    result = run("pull", index, "--to", tmp_path, "--json")
    done = json.loads(result.stdout)
    assert (done["ok"], done["exit_code"], done["directory"]) == (True, 0, str(tmp_path))
    assert done["nbytes"] == done["fetched"] == sum(map(len, weights_of(files).values()))
    listed = done["models"]["llama"]["files"]
    assert {name: file["sha256"] for name, file in listed.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in weights_of(files).items()
    }


def damage(server) -> None:
    server.objects[f"llama/{SHARD}"] = b"not a safetensors file"


@pytest.mark.parametrize(
    ("arguments", "arrange", "code", "kind", "says"),
    [
        (("{url}/llama/missing.json",), None, 3, "not_found", "missing.json"),
        (("{url}/llama/" + SHARD,), lambda server: server.denied.add(f"llama/{SHARD}"), 4, "denied", SHARD),
        (("{url}/llama/" + SHARD,), damage, 5, "format", SHARD),
        (("nowhere/at/all",), None, 3, "not_found", "nowhere"),
        (("magic://bucket/llama",), None, 2, "usage", "magic"),
        (("http://127.0.0.1:1/llama/x.json",), None, 1, "failed", "127.0.0.1"),
    ],
)
def test_exit_codes_and_kinds(server, tmp_path, monkeypatch, arguments, arrange, code, kind, says):
    monkeypatch.setenv("STREAMLOAD_OPTION_RETRY_SECONDS", "0.2")
    if arrange is not None:
        arrange(server)
    given = [argument.replace("{url}", server.url) for argument in arguments]
    plain = run("pull", *given, "--to", tmp_path)
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert says in plain.stderr
    assert plain.stderr.count("\n") == 1
    result = run("pull", *given, "--to", tmp_path, "--json")
    failed = json.loads(result.stdout)
    assert (result.exit_code, failed["ok"], failed["exit_code"], failed["error"]["kind"]) == (code, False, code, kind)
    assert failed["error"]["message"] in result.stderr


def test_a_wrong_sha256_is_exit_code_5(server, tmp_path):
    listed = {"models": {"llama": {"source": f"{server.url}/llama/{SHARD}", "sha256": "0" * 64}}}
    (tmp_path / "wanted.json").write_text(json.dumps(listed))
    result = run("pull", "--manifest", tmp_path / "wanted.json", "--to", tmp_path / "to", "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["error"]["kind"] == "checksum"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give URLs, or --manifest"),
        (("s3://b/llama", "--manifest", "x.json"), "not both"),
        (("--manifest", "x.json", "--name", "y"), "for each model"),
        (("s3://b/llama", "--storage-option", "anon"), "KEY=VALUE"),
        (("s3://b/llama", "--storage-option", "a=1", "--storage-option", "a=2"), "given twice"),
        (("s3://b/llama", "--storage-option", "a={x"), "begins as JSON"),
        (("https://host/x.safetensors",), "--name"),
        (("s3://b/llama", "--connections", "0"), "--connections"),
    ],
)
def test_what_is_typed_wrong_is_exit_code_2_and_makes_nothing(tmp_path, arguments, says):
    result = run("pull", *arguments, "--to", tmp_path / "to")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("text", ["{", '{"models": {"../x": "s3://b/l"}}', '{"models": {}}', '{"models": {"a": {}}}'])
def test_a_list_that_is_none_is_exit_code_2(tmp_path, text):
    (tmp_path / "models.json").write_text(text)
    result = run("pull", "--manifest", tmp_path / "models.json", "--to", tmp_path / "to")
    assert result.exit_code == 2
    assert "models.json" in result.stderr
    assert result.stderr.count("\n") == 1
    assert run("pull", "--manifest", tmp_path / "none.json", "--to", tmp_path / "to").exit_code == 2


def test_a_list_of_many_models_is_pulled_and_verified(server, files, tmp_path):
    models = {"llama": f"{server.url}/llama/model.safetensors.index.json", "config": f"{server.url}/llama/config.json"}
    (tmp_path / "wanted.json").write_text(json.dumps({"models": models}))
    assert run("pull", "--manifest", tmp_path / "wanted.json", "--to", tmp_path / "to").exit_code == 0
    right = run("verify", tmp_path / "to")
    assert (right.exit_code, right.stdout[:6]) == (0, "right:")
    assert "5 files of 2 models" in right.stdout
    target = tmp_path / "to" / "llama" / SHARD
    data = files[SHARD]
    target.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    (tmp_path / "to" / "config" / "config.json").unlink()
    wrong = run("verify", tmp_path / "to", "--json")
    verdict = json.loads(wrong.stdout)
    assert (wrong.exit_code, verdict["right"]) == (1, False)
    assert {(fault["model"], fault["file"]) for fault in verdict["faults"]} == {
        ("llama", SHARD),
        ("config", "config.json"),
    }
    said = run("verify", "--manifest", tmp_path / "to" / "models.json", tmp_path / "to")
    assert (said.exit_code, "not there" in said.stdout, "wrong: 2 faults" in said.stdout) == (1, True, True)
    assert "Remove the files that are wrong and run the pull again" in said.stdout


@pytest.mark.parametrize("below", ["", "llama"])
def test_verify_after_an_interrupted_pull_says_to_run_it_again(index, tmp_path, monkeypatch, below):
    publish = WorkFiles.publish

    def stopped(self, record):
        if self.target.name == SHARD:
            raise KeyboardInterrupt
        return publish(self, record)

    monkeypatch.setattr(WorkFiles, "publish", stopped)
    assert run("pull", index, "--to", tmp_path).exit_code == 130
    result = run("verify", tmp_path / below)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "the pull is not complete; run it again" in result.stderr
    assert "streamload manifest" not in result.stderr
    monkeypatch.undo()
    assert run("pull", index, "--to", tmp_path).exit_code == 0
    assert run("verify", tmp_path).exit_code == 0


def test_the_help_says_that_a_name_is_for_all_urls():
    assert "several URLs go into this one" in " ".join(run("pull", "--help").stdout.split())


def test_verify_without_a_list_is_exit_code_2(tmp_path):
    result = run("verify", "--manifest", tmp_path / "models.json", tmp_path)
    assert result.exit_code == 2
    assert "models.json" in result.stderr


def test_no_secret_is_shown_or_written(server, files, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMLOAD_OPTION_RETRY_SECONDS", "0.2")
    host = server.url.removeprefix("http://")
    signed = f"http://user:{SECRET}@{host}/llama/{SHARD}?X-Amz-Signature={SECRET}"
    listed = {"models": {"llama": {"source": signed, "storage_options": {"headers": {"X-Secret": SECRET}}}}}
    (tmp_path / "wanted.json").write_text(json.dumps(listed))
    to = tmp_path / "to"
    shown = [run("pull", "--manifest", tmp_path / "wanted.json", "--to", to, "--json")]
    assert shown[0].exit_code == 0, shown[0].stderr
    for problem in (server.objects.clear, lambda: server.denied.add(f"llama/{SHARD}")):
        problem()
        shown.append(run("pull", "--manifest", tmp_path / "wanted.json", "--to", to))
        shown.append(run("pull", signed, "--to", to, "--storage-option", f'headers={{"X": "{SECRET}"}}', "--json"))
    shown.append(run("pull", f"http://127.0.0.1:1/llama/x.json?sig={SECRET}", "--to", to))
    shown.append(
        run(
            "pull",
            f"magic://{SECRET}:{SECRET}@b/llama?sig={SECRET}",
            "--to",
            to,
            "--storage-option",
            f"secret={SECRET}",
        )
    )
    for result in shown:
        assert SECRET not in result.output
        assert SECRET not in result.stderr
    assert shown[-1].exit_code != 0
    assert not [path for path, data in contents(to).items() if SECRET.encode() in data]


def progress(present: int, seconds: float, *notes: str) -> PullProgress:
    return PullProgress(100_000_000, present, present, 3, 1, seconds, notes)


class Terminal:
    """A stream that says whether it is a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self.text = ""

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_without_a_terminal_a_line_comes_now_and_then():
    stream = Terminal(is_terminal=False)
    with PullScreen(stream, quiet=False) as screen:
        for second in range(25):
            screen.show(progress(second * 4_000_000, float(second), "llama/x: something happened"))
    lines = stream.text.splitlines()
    assert lines[0] == "streamload: llama/x: something happened"
    assert len(lines) == 3
    assert "40.0 MB of 100 MB (40 %), 1 of 3 files, 4.00 MB/s, 0:15 left" in lines[1]
    assert "\r" not in stream.text


def test_a_terminal_has_a_bar_with_rate_and_time_left():
    stream = Terminal(is_terminal=True)
    with PullScreen(stream, quiet=False) as screen:
        for second in range(10):
            screen.show(progress(second * 4_000_000, float(second)))
    assert "36%" in stream.text
    assert "4.00 MB/s, 0:16 left" in stream.text


def test_quiet_is_quiet():
    stream = Terminal(is_terminal=True)
    with PullScreen(stream, quiet=True) as screen:
        screen.show(progress(1, 11.0, "a note"))
    assert stream.text == ""


@pytest.mark.slow
def test_on_a_real_terminal_the_bar_is_on_stderr_and_json_alone_on_stdout(index, tmp_path):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "streamload", "pull", index, "--to", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower) as process:
        out, _ = process.communicate(timeout=60)
    os.set_blocking(leader, False)
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    os.close(follower)
    assert json.loads(out)["ok"] is True
    assert b"pulling" in shown


@pytest.mark.slow
def test_sigterm_ends_it_as_ctrl_c_does_but_with_143(server, index, files, tmp_path, pulling):
    """As process 1 of a container, where SIGTERM has no default."""
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str, sent: int) -> None:
        if sent > 3_000_000:
            reached.set()
            go_on.wait(30)

    server.before_piece = hold
    process = pulling("pull", index, "--to", tmp_path, "--json")
    assert reached.wait(60)
    process.send_signal(signal.SIGTERM)
    go_on.set()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert json.loads(out)["error"]["kind"] == "terminated"


@pytest.mark.slow
def test_it_needs_no_extra(index, files, tmp_path):
    program = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'safetensors', 'fsspec', 's3fs', 'huggingface_hub'): sys.modules[name] = None\n"
        "from streamload.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "pull", index, "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "llama") == weights_of(files)


@pytest.mark.parametrize(
    "command", ["pull", "verify", "manifest", "inspect", "plan", ("cache", "ls"), ("cache", "prune")]
)
def test_every_command_has_an_example_in_its_help(command):
    words = (command,) if isinstance(command, str) else command
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"streamload {' '.join(words)} " in result.stdout
