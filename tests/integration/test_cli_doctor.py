"""`streamload doctor` on limits that are really there: low ones, a seccomp filter, tmpfs, an overlay, no huge pages."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pty
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamload.cli import main
from streamload.testing import LlamaShape, make_checkpoint

pytestmark = pytest.mark.slow  # each test is a process of its own

SHAPE = LlamaShape(layers=1, hidden=16, heads=4, kv_heads=2, intermediate=32, vocab=24)
SECRET = "very-secret-value"
COMMAND = [sys.executable, "-m", "streamload", "doctor"]
# linux/prctl.h
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 22, 24, 38, 41
CAP_IPC_LOCK = 14
IO_URING_SETUP = 425


def prctl(*arguments: int) -> None:
    """Change the calling process; for `preexec_fn`, where an error ends the child."""
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]]
    if ctypes.CDLL(None, use_errno=True).prctl(*words) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def findings(*arguments: str, change=None, environ=None) -> dict[str, dict[str, str]]:
    """Run the command in a child that `change` has changed; give back what it found, by check."""
    command = [*COMMAND, *arguments, "--json", "-"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=change,
            env={**os.environ, **(environ or {})},
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"this system does not let a process change itself so: {error}")
    assert done.stderr == ""
    described = json.loads(done.stdout)
    assert (done.returncode, described["ok"]) in ((0, True), (1, False))
    return {finding["check"]: finding for finding in described["findings"]}


def test_a_low_limit_of_locked_memory_is_found():
    def lower() -> None:
        if os.geteuid() == 0:
            prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK)  # gone at the next exec
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, 64 << 10))

    found = findings(change=lower)["locked memory"]
    assert (found["state"], "65.5 kB may be locked" in found["found"], "ulimit -l" in found["fix"]) == (
        "slow",
        True,
        True,
    )


def test_a_limit_that_does_not_hold_is_not_complained_of():
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))

    program = "import ctypes; memory = (ctypes.c_char * 1)(); raise SystemExit(-ctypes.CDLL(None).mlock(memory, 1))"
    locks = subprocess.run([sys.executable, "-c", program], preexec_fn=lower, timeout=60).returncode == 0
    assert findings(change=lower)["locked memory"]["state"] == ("ok" if locks else "slow")


def test_a_limit_above_what_staging_takes_is_fine():
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if 0 <= limit < 128 << 10:
        pytest.skip("the limit of locked memory is too low for any staging")
    environ = {"STREAMLOAD_OPTION_CHUNK_BYTES": str(64 << 10), "STREAMLOAD_OPTION_STAGING_BYTES": str(128 << 10)}
    assert findings(environ=environ)["locked memory"]["state"] == "ok"


def test_huge_pages_switched_off_are_found():
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("this kernel shows no transparent huge pages")
    if "THP_enabled" not in Path("/proc/self/status").read_text():
        pytest.skip("this kernel does not say whether a process has huge pages")
    found = findings(change=lambda: prctl(PR_SET_THP_DISABLE, 1))["huge pages"]
    assert found["state"] == "slow"


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_io_uring_refused_by_a_seccomp_filter_is_found(error):
    def refuse() -> None:
        # linux/bpf_common.h and seccomp.h: load the call's number; io_uring_setup → errno, all else → allowed.
        program = b"".join(
            struct.pack("HBBI", *instruction)
            for instruction in (
                (0x20, 0, 0, 0),
                (0x15, 0, 1, IO_URING_SETUP),
                (0x06, 0, 0, 0x00050000 | error),
                (0x06, 0, 0, 0x7FFF0000),
            )
        )
        code = ctypes.create_string_buffer(program, len(program))
        filtered = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_SECCOMP, 2, ctypes.addressof(filtered))

    found = findings(change=refuse)["io_uring"]
    assert (found["state"], found["found"]) == ("slow", f"a seccomp filter refuses it ({errno.errorcode[error]})")
    assert "seccomp" in found["fix"]


def test_one_cpu_is_few():
    cpu = min(os.sched_getaffinity(0))
    found = findings(change=lambda: os.sched_setaffinity(0, {cpu}))["CPUs"]
    assert (found["state"], found["found"].startswith("1 CPU")) == ("slow", True)


def kind_of(path: str) -> str:
    asked = subprocess.run(["stat", "--file-system", "--format=%T", path], capture_output=True, text=True)
    return asked.stdout.strip()


def test_tmpfs_is_found(tmp_path):
    if kind_of("/dev/shm") != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    found = findings("/dev/shm")
    assert (found["storage"]["state"], found["storage"]["found"].startswith("tmpfs")) == ("ok", True)
    assert "in memory" in found["O_DIRECT"]["found"]
    assert "in memory" in found["page cache"]["found"]


def test_an_overlay_is_found(tmp_path):
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    make_checkpoint(lower / "model", SHAPE, shards=1)
    mount = f"mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} {merged} || exit 77"
    inside = f"{mount}; exec {sys.executable} -m streamload doctor {merged}/model --json -"
    try:
        done = subprocess.run(["unshare", "-Urm", "sh", "-c", inside], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1)")
    if done.returncode not in (0, 1) or not done.stdout:
        pytest.skip(f"no overlay can be mounted in a user namespace here: {done.stderr.strip()}")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert (found["storage"]["state"], found["storage"]["found"]) == ("slow", "overlay (overlay)")
    assert "docker -v" in found["storage"]["fix"]
    assert found["page cache"]["state"] == "slow"


def test_a_checkpoint_on_a_drive_is_tried(tmp_path):
    if kind_of(str(tmp_path)) in ("tmpfs", "overlayfs"):
        pytest.skip("the temporary directory is on no drive")
    make_checkpoint(tmp_path, SHAPE, shards=1)
    found = findings(str(tmp_path))
    (file,) = tmp_path.glob("*.safetensors")
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        assert found["O_DIRECT"]["state"] == "slow"
    else:
        assert (found["O_DIRECT"]["state"], found["O_DIRECT"]["found"]) == ("ok", f"{file.name} can be read so")


def test_credentials_are_seen_and_never_shown(tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(f"[default]\naws_secret_access_key = {SECRET}\n")
    environ = {
        **{name: SECRET for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")},
        "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={SECRET}",
        "HOME": str(tmp_path),
    }
    found = findings(environ=environ)
    assert "AWS_ACCESS_KEY_ID" in found["s3://"]["found"]
    table = subprocess.run(COMMAND, capture_output=True, text=True, env={**os.environ, **environ}, timeout=120)
    assert SECRET not in json.dumps(found) + table.stdout + table.stderr
    assert "HF_TOKEN" in table.stdout


def test_without_torch_and_without_a_gpu_it_says_so():
    program = "import sys\nsys.modules['torch'] = None\nfrom streamload.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program, "doctor"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pip install 'streamload[torch]'" in done.stdout
    if not Path("/proc/driver/nvidia/version").exists():
        assert "no GPU of NVIDIA's here" in done.stdout


def test_torch_is_not_imported():
    program = (
        "import sys\nfrom streamload.cli import main\nmain(standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program, "doctor"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def run(*arguments: str, **environ: str):
    return CliRunner(env=environ).invoke(main, ["doctor", *arguments], catch_exceptions=False)


def test_something_wrong_is_exit_code_1_and_in_the_line_that_says_it(tmp_path):
    result = run(GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "missing.json"))
    (line,) = [line for line in result.output.splitlines() if line.startswith("wrong")]
    assert "gs://" in line
    assert "gcloud auth" in line
    assert result.exit_code == 1
    assert "1 wrong" in result.output.splitlines()[-1]
    assert run(GOOGLE_APPLICATION_CREDENTIALS="").exit_code == 0


def test_a_url_is_looked_at_without_being_asked():
    result = run("s3://bucket/name?secret=x", "--json", "-", AWS_PROFILE="prod")
    checks = [finding["check"] for finding in json.loads(result.output)["findings"]]
    assert "s3://" in checks
    assert "gs://" not in checks
    assert "secret" not in result.output.replace("AWS_SECRET", "")


@pytest.mark.parametrize("path", ["missing", "missing.safetensors", ""])
def test_a_path_that_is_not_there_is_one_line_and_exit_code_2(tmp_path, path):
    result = run(str(tmp_path / path) if path else "")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_json_goes_to_a_file_whole_or_not_at_all(tmp_path):
    result = run("--json", str(tmp_path / "doctor.json"))
    assert result.exit_code == 0
    assert f"written to {tmp_path}" in result.output
    described = json.loads((tmp_path / "doctor.json").read_text())
    assert {finding["state"] for finding in described["findings"]} <= {"ok", "slow", "wrong", "unknown"}
    assert all(set(finding) == {"check", "state", "found", "why", "fix"} for finding in described["findings"])
    assert list(tmp_path.iterdir()) == [tmp_path / "doctor.json"]
    assert run("--json", str(tmp_path / "missing" / "doctor.json")).exit_code == 2


def test_every_line_of_the_table_says_why_and_what_is_not_ok_what_to_do():
    described = json.loads(run("--json", "-").output)
    table = run().output
    for finding in described["findings"]:
        (line,) = [line for line in table.splitlines() if f" {finding['check']} " in line and finding["why"] in line]
        assert line.startswith(finding["state"])
        assert finding["fix"] in line


def test_a_narrow_terminal_gets_what_to_do_in_lines_of_its_own():
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen(COMMAND, stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        text = b""
        try:
            while more := os.read(ours, 1 << 16):
                text += more
        except OSError:  # EIO: all who wrote are gone
            pass
        os.close(ours)
    assert process.returncode == 0
    lines = text.decode().splitlines()
    assert "         > streamload doctor PATH" in lines
    assert "\x1b" not in text.decode()
